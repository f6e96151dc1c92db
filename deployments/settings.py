"""What an operator chooses: the `args` and `user_config` of serve_config.yaml, typed.

A key that does not exist, or a value of the wrong type, fails the deployment with its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from pydantic import ValidationError as _ValidationError

from deployments.batching import Bounds
from mlc_core.engine import EngineName, Precision

PROJECT = Path(__file__).resolve().parent.parent


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Limits(_Strict):
    """What one request may carry."""

    photo_bytes: PositiveInt = 10 * 2**20
    photo_pixels: PositiveInt = 50_000_000
    batch_photos: PositiveInt = 32
    batch_bytes: PositiveInt = 64 * 2**20


class Grouping(_Strict):
    """How the ingress groups photos, for each of its two lanes: small photos and large ones."""

    photos: PositiveInt = 32
    size_bytes: PositiveInt = 3 * 2**20  # a gRPC message between replicas holds 4 MiB
    in_flight: PositiveInt = 2
    waiting: PositiveInt = 512

    def bounds(self) -> Bounds:
        return Bounds(self.photos, self.size_bytes, self.in_flight, self.waiting)


class Batching(_Strict):
    """How the classifier batches images."""

    images: PositiveInt = 64
    in_flight: PositiveInt = 1
    waiting: PositiveInt = 2048

    def bounds(self) -> Bounds:
        return Bounds(self.images, 2**40, self.in_flight, self.waiting)


Level = Literal["info", "warning", "error", "off"]


class RequestLogging(_Strict):
    """Which requests get a line in the log.

    Attributes:
        level: the least that is written; an answer is info, a 4xx warning, a 5xx error.
        sample: share of the info lines that is written, chosen by request id.
    """

    level: Level = "info"
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0


class Settings(_Strict):
    """The `args` of the application."""

    limits: Limits = Limits()
    deadline_s: PositiveFloat = 10.0
    upload_timeout_s: PositiveFloat = 30.0
    retry_after_s: PositiveInt = 1
    large_photo_bytes: PositiveInt = 64 * 2**10
    small_photos: Grouping = Grouping()
    large_photos: Grouping = Grouping(photos=8)
    batching: Batching = Batching()
    classifiers: list[str] = Field(
        ["Classifier"],
        min_length=1,
        description="names of the classifier deployments; each answers the heads of the model in "
        "its user_config, all models take images of the same size",
    )
    decode_threads: PositiveInt = 2
    request_log: RequestLogging = RequestLogging()
    metrics_endpoint: bool = Field(True, description="whether GET /metrics answers")


class ClassifierConfig(_Strict):
    """The `user_config` of the classifier: what `serve deploy` changes without a restart."""

    model: str = Field(description="directory of an artifact; relative to the project's root")
    engine: EngineName = "onnxruntime"
    precision: Precision = "float32"
    threads: NonNegativeInt = 1
    emulated_batch_s: NonNegativeFloat = Field(0.0, description="of `engine: emulated`, any batch")
    emulated_image_s: NonNegativeFloat = Field(0.0, description="and for each image in it, added")

    @property
    def model_path(self) -> Path:
        return PROJECT / self.model


Model = TypeVar("Model", bound=BaseModel)


def parse(kind: type[Model], values: Any) -> Model:
    """Check what an operator wrote.

    Raises:
        ValueError: names every wrong key, its value and what was expected.
    """
    try:
        return kind.model_validate(values)
    except _ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or kind.__name__} = {fault['input']!r}: "
            f"{_expected(kind, fault)}"
            for fault in error.errors()
        )
        raise ValueError(f"serve_config.yaml: {faults}") from error


def check(config: dict[str, Any]) -> None:
    """Check our part of a Serve config before anything is started.

    Raises:
        ValueError: names every wrong key, its value and what was expected.
    """
    for application in config["applications"]:
        if application["import_path"] == "deployments.app:build":
            settings = parse(Settings, application.get("args", {}))
            for deployment in application.get("deployments", []):
                if deployment["name"] in settings.classifiers:
                    parse(ClassifierConfig, deployment.get("user_config"))


def _expected(kind: type[BaseModel], fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return f"no such key; expected one of {', '.join(kind.model_fields)}"
    return str(fault["msg"])

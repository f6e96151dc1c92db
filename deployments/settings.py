"""The settings that an operator chooses: `args` and `user_config` of a Serve config, typed.

Their defaults live in this module alone. A key that does not exist, or a value of the wrong type,
fails the deployment, and the error names it. `make generate` writes docs/settings.md from here.
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
    ValidationError,
)

from mlc_core.engines.engine import EngineName, Precision
from mlc_core.errors import ProfileError
from mlc_core.profiles import Profile, read_profile
from mlc_core.sources.files import MAX_PHOTO_BYTES
from mlc_core.spec import Spec

PROJECT = Path(__file__).resolve().parent.parent
# In the environment: where replicas listen for groups; the node's address without it.
LISTEN_HOST = "MLC_LISTEN_HOST"
# As browsers send it: scheme, host in lower case, and a port that is not the scheme's own.
_ORIGIN = r"^(\*|https?://[a-z0-9.\-]+(:[0-9]+)?|https?://\[[0-9a-f:]+\](:[0-9]+)?)$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Limits(_Strict):
    """The most that one request may carry."""

    max_photo_bytes: PositiveInt = Field(default=MAX_PHOTO_BYTES, description="bytes of one photo")
    max_photo_pixels: PositiveInt = Field(
        default=50_000_000, description="pixels of one photo, width × height"
    )
    max_request_photos: PositiveInt = Field(default=32, description="photos of one batch request")
    max_request_bytes: PositiveInt = Field(
        default=64 * 2**20,
        description="bytes of one batch request, or of one call of the Open Inference Protocol, "
        "compressed and decompressed",
    )
    max_infer_photos: PositiveInt = Field(
        default=128, description="photos or images of one call of the Open Inference Protocol"
    )


class LaneSettings(_Strict):
    """One of the ingress' two queues of photos, and the groups that leave it."""

    max_photos: PositiveInt = Field(default=64, description="photos of one group")
    max_bytes: PositiveInt = Field(
        default=3 * 2**20,
        description="bytes of one group; a larger photo goes alone",
    )
    max_in_flight: PositiveInt = Field(
        default=2,
        description="groups in flight at the same time. With two, the preprocessor decodes one "
        "while the classifier runs the other. The second starts when as many photos wait as the "
        "first took, when the first is back, or after 0.1 s",
    )
    max_waiting: PositiveInt = Field(
        default=8192,
        description="photos that may wait, for memory; the ingress refuses one more with 503",
    )
    max_waiting_bytes: PositiveInt = Field(
        default=128 * 2**20, description="bytes of the photos that may wait, likewise"
    )


class BatchingSettings(_Strict):
    """How a classifier batches images."""

    max_images: PositiveInt = Field(default=64, description="images of one batch")
    max_in_flight: PositiveInt = Field(default=1, description="batches that run at the same time")
    max_waiting: PositiveInt = Field(
        default=2048, description="images that may wait; the classifier refuses one more with 503"
    )


Openness = Literal["open", "key", "closed"]


class EndpointSettings(_Strict):
    """Who may ask for what is not classification; without a keys_file, `key` is as `open`."""

    page: Openness = Field(
        default="open",
        description="`GET /`: `open` to everybody, `key` with a key, or `closed` (404)",
    )
    contract: Openness = Field(default="open", description="`GET /openapi.json`, likewise")
    health: Openness = Field(
        default="open",
        description="`GET /healthz`, `/readyz`, `/v2` and `/v2/health/…`, likewise. Load balancers "
        "and probes ask without a key",
    )
    metrics: Openness = Field(
        default="key",
        description="`GET /metrics`, likewise. Prometheus has `authorization` for keys",
    )


Level = Literal["info", "warning", "error", "off"]


class RequestLogSettings(_Strict):
    """Which requests get a line in the request log."""

    level: Level = Field(
        default="info",
        description="the lowest level that is written; 4xx is warning, 5xx error, the rest info",
    )
    sample: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0, description="share of the info lines that is written, chosen by request id"
    )


class TracingSettings(_Strict):
    """OpenTelemetry traces of requests for labels."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^/]+/.+")] | None = Field(
        default=None,
        description="where to send traces by OTLP over HTTP, as "
        "`http://collector:4318/v1/traces`; without it there are none",
    )
    sample: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1.0,
        description="share of the requests without a `traceparent` that is traced; a request with "
        "one is traced if it says so",
    )


class FeedbackSettings(_Strict):
    """What `POST /v1/feedback` stores, and for how long."""

    directory: str | None = Field(
        default=None,
        min_length=1,
        description="where [feedback](feedback.md) is stored, on the node of every ingress, or on "
        "a volume that they share; a relative path starts at the project's root. Without it there "
        "is no such call, and no photo is kept",
    )
    keep_days: PositiveInt = Field(
        default=90, description="days that feedback is kept, its photos included"
    )
    recent_bytes: NonNegativeInt = Field(
        default=64 * 2**20,
        description="bytes of the photos of the last requests that an ingress keeps in memory, for "
        "an hour at most, so that feedback may name a request instead of sending its photo",
    )


class Settings(_Strict):
    """The `args` of the application."""

    limits: Limits = Limits()
    deadline_s: PositiveFloat = Field(
        default=10.0,
        description="seconds from the end of an upload to its answer; then 504, or 503 if no photo "
        "got labels in that time",
    )
    max_wait_s: PositiveFloat = Field(
        default=0.5,
        description="seconds that a photo may wait in the ingress, as far as can be told when it "
        "comes; the ingress refuses one that would wait longer with 503, before it reads the body. "
        "In a burst, up to four times as long",
    )
    upload_timeout_s: PositiveFloat = Field(
        default=30.0, description="seconds that a body may take to arrive; then 408"
    )
    retry_after_s: PositiveInt = Field(default=1, description="the `Retry-After` of a 503, seconds")
    large_photo_bytes: PositiveInt = Field(
        default=64 * 2**10,
        description="from this size on, a photo goes to the large lane; so does a smaller one "
        "whose header shows that decoding takes over 10 ms",
    )
    small_lane: LaneSettings = LaneSettings()
    large_lane: LaneSettings = LaneSettings(
        max_photos=8, max_waiting=1024, max_waiting_bytes=256 * 2**20
    )
    batching: BatchingSettings = BatchingSettings()
    classifiers: list[str] = Field(
        default=["Classifier"],
        min_length=1,
        description="names of the classifier deployments. Each answers the heads of the model in "
        "its `user_config`; all models take images of the same size",
    )
    decode_threads: PositiveInt = Field(
        default=2, description="threads of a preprocessor that decode, for each lane"
    )
    catalog: str | None = Field(
        default=None,
        min_length=1,
        description="the shop's catalogue, for `/v1/similar` and `/v1/catalog`: a directory, as "
        "`mlc index` fills it, on the node of every replica of `SimilarProducts`, or the URL of a "
        "PostgreSQL database, without its password (`PGPASSFILE` has it). A relative path starts "
        "at the project's root. Without it there is no such deployment",
    )
    feedback: FeedbackSettings = FeedbackSettings()
    request_log: RequestLogSettings = RequestLogSettings()
    tracing: TracingSettings = TracingSettings()
    keys_file: str | None = Field(
        default=None,
        min_length=1,
        description="file of API keys, as `mlc keys` writes it, on the node of every ingress; a "
        "relative path starts at the project's root. With it, `/v1/…` and `/v2/models/…` need a "
        "key",
    )
    endpoints: EndpointSettings = EndpointSettings()
    cors_origins: list[Annotated[str, Field(pattern=_ORIGIN)]] = Field(
        default=[],
        description="origins whose pages may call the service, as `https://shop.example`; "
        "`*` for all",
    )

    @property
    def catalog_place(self) -> str | None:
        """The directory or the URL of the catalogue."""
        if self.catalog is None or "://" in self.catalog:
            return self.catalog
        return str(PROJECT / self.catalog)

    @property
    def feedback_path(self) -> Path | None:
        return PROJECT / self.feedback.directory if self.feedback.directory else None

    @property
    def keys_path(self) -> Path | None:
        return PROJECT / self.keys_file if self.keys_file else None


class ClassifierConfig(_Strict):
    """The `user_config` of a classifier: what `serve deploy` changes without a restart."""

    model: str = Field(
        description="directory of an artifact; a relative path starts at the project's root"
    )
    engine: EngineName = Field(
        default="onnxruntime", description="`tensorflow` for a GPU, `emulated` for rehearsals"
    )
    precision: Precision = Field(
        default="float32",
        description="`int8` with onnxruntime, if the artifact has it; `bfloat16` with tensorflow",
    )
    heads: list[str] | None = Field(
        default=None,
        min_length=1,
        description="heads that the model must have. Without it, a model needs every head of the "
        "model that it replaces. To drop a head, list those that stay",
    )
    profiles: list[str] = Field(
        default=[],
        description="files of [profiles](profiles.md), a merchant's own words for the classes; a "
        "relative path starts at the project's root",
    )
    threads: NonNegativeInt = Field(
        default=1, description="threads of one inference; 0 leaves it to the engine"
    )
    emulated_batch_s: NonNegativeFloat = Field(
        default=0.0, description="with `engine: emulated`, seconds that any batch takes"
    )
    emulated_image_s: NonNegativeFloat = Field(
        default=0.0, description="with `engine: emulated`, seconds that each image adds"
    )

    @property
    def model_path(self) -> Path:
        return PROJECT / self.model

    def read_profiles(self, spec: Spec) -> list[Profile]:
        """The profiles, for the model of a spec.

        Raises:
            ProfileError: one of them is wrong; two have one name.
        """
        profiles = [read_profile(PROJECT / file, spec) for file in self.profiles]
        names = [each.name for each in profiles]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ProfileError(f"two profiles are named {twice[0]}; rename one of their files")
        return profiles


Model = TypeVar("Model", bound=BaseModel)


def parse(kind: type[Model], values: Any, source: str = "the Serve config") -> Model:
    """Check the values that an operator wrote.

    Args:
        source: name of the file that the values come from.

    Raises:
        ValueError: names every wrong key, its value and what was expected.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or kind.__name__} = {fault['input']!r}: "
            f"{_expected(kind, fault)}"
            for fault in error.errors()
        )
        raise ValueError(f"{source}: {faults}") from error


def _expected(kind: type[BaseModel], fault: Any) -> str:
    if fault["type"] != "extra_forbidden":
        return str(fault["msg"])
    for key in fault["loc"][:-1]:  # down to the mapping that has the unknown key
        field = kind.model_fields[key].annotation
        kind = field if isinstance(field, type) and issubclass(field, BaseModel) else kind
    return f"no such key; expected one of {', '.join(kind.model_fields)}"

"""The classifier: dynamic batching around one engine, and a model that changes while it serves."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deployments.autoscaling import PHOTOS_HELD
from deployments.batching import Batcher
from deployments.errors import WrongImageSize
from deployments.merging import merge_traces
from deployments.messages import PROBE_ID, Answer, Answers, Images, Trace
from deployments.metrics import (
    BUSY_S,
    MODEL,
    MODEL_LOAD_S,
    MODEL_WARM_UP_S,
    STAGE_S,
    UPDATE_STUCK,
    UPDATES,
    WAITING,
    Predictions,
    batch_observer,
    export,
    record,
)
from deployments.settings import ClassifierConfig, Settings, parse
from mlc_core.artifact import Artifact, load_artifact
from mlc_core.engine import Engine, load_engine
from mlc_core.labels import Choice, Labeller

logger = logging.getLogger("ray.serve")


class _Model(NamedTuple):
    artifact: Artifact
    engine: Engine
    labeller: Labeller
    config: ClassifierConfig
    predictions: Predictions
    load_s: float
    warm_up_s: float


class _Item(NamedTuple):
    image: NDArray[np.uint8]  # (H, W, 3)
    choice: Choice
    request_id: str
    since: float  # monotonic
    traces: list[Trace]  # of its group; a batch that takes of the group adds its own


class Classifier:
    """Answers images with labels, and with the version of the model that chose them."""

    def __init__(self, settings: Settings) -> None:
        bounds = settings.batching.bounds()
        self._batcher: Batcher[_Item, bytes] = Batcher(
            self._infer, bounds, batch_observer("images")
        )
        self._in_flight = bounds.in_flight
        self._threads = ThreadPoolExecutor(bounds.in_flight, thread_name_prefix="engine")
        self._reconfiguring = asyncio.Lock()
        self._model: _Model | None = None
        self._update_stuck = False
        # Of the model before, too: a batch of its may be in progress when it is replaced.
        self._predictions: deque[Predictions] = deque(maxlen=2)
        self._background = asyncio.get_running_loop().create_task(
            export(self._gauge), context=contextvars.Context()
        )

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the model that serve_config.yaml names; the one in service answers meanwhile.

        Raises:
            Exception: the first model can't be loaded. A later one that can't be loaded is
                reported in the log, and the model in service stays.
        """
        async with self._reconfiguring:
            try:
                self._model = await asyncio.to_thread(_load, user_config)
                self._predictions.append(self._model.predictions)
                self._update_stuck = False
                record(UPDATES, 1, outcome="loaded")
            except Exception:
                self._update_stuck = True
                record(UPDATES, 1, outcome="refused")
                if self._model is None:
                    raise
                logger.exception(
                    "model update refused, version %s stays in service",
                    self._model.artifact.spec.version,
                )

    def _gauge(self) -> None:
        record(WAITING, self._batcher.waiting, queue="images")
        record(UPDATE_STUCK, self._update_stuck)
        if self._model is not None:
            record(MODEL, 1, **_identity(self._model))
            record(MODEL_LOAD_S, self._model.load_s)
            record(MODEL_WARM_UP_S, self._model.warm_up_s)
        for predictions in self._predictions:
            predictions.export()

    async def classify(self, images: Images) -> Answers:
        """Answer each image of a group, in its order."""
        now, traces = time.monotonic(), list[Trace]()
        shape = (len(images.choices), images.height_px, images.width_px, 3)
        pixels = np.frombuffer(images.data, np.uint8).reshape(shape)
        futures = [
            self._batcher.submit(
                _Item(image, choice, request_id, now, traces), deadline=now + left_s
            )
            for image, choice, left_s, request_id in zip(
                pixels, images.choices, images.left_s, images.request_ids, strict=True
            )
        ]
        answers: list[Any] = await asyncio.gather(*futures, return_exceptions=True)
        return Answers(answers, merge_traces(traces))

    async def describe(self) -> dict[str, Any]:
        """The model in service: spec, metrics and engine, as /v1/model answers it."""
        model = self._in_service()
        spec = model.artifact.spec
        return {
            "name": spec.name,
            "version": spec.version,
            "engine": model.config.engine,
            "precision": model.config.precision,
            "image": {"height_px": spec.image.height_px, "width_px": spec.image.width_px},
            "heads": {head: list(classes) for head, classes in spec.heads.items()},
            "metrics": dict(model.artifact.metrics),
        }

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve asks a replica for when it scales; see deployments.autoscaling."""
        return {PHOTOS_HELD: float(self._batcher.held)}

    def _in_service(self) -> _Model:
        if self._model is None:
            raise RuntimeError("the classifier needs a user_config that names a model")
        return self._model

    async def _infer(self, items: list[_Item]) -> list[Answer]:
        began, model = time.monotonic(), self._in_service()
        size = model.artifact.spec.image
        wanted = (size.height_px, size.width_px, 3)
        # A model of another image size may have come into service since these were decoded.
        fitting = [item for item in items if item.image.shape == wanted]
        answers: list[bytes] = []
        if fitting:
            loop = asyncio.get_running_loop()
            try:
                answers, stages_s = await loop.run_in_executor(
                    self._threads, _answer, model, fitting
                )
            except Exception:
                ids = ", ".join(item.request_id for item in fitting)
                logger.exception("inference failed, requests %s", ids)
                raise
            record(BUSY_S, (time.monotonic() - began) / self._in_flight)
            name = f"{model.artifact.spec.name}/{model.artifact.spec.version}"
            groups = {id(item.traces): item for item in fitting}
            for item in groups.values():
                spent_s = {"images_queue": began - item.since, **stages_s}
                item.traces.append(Trace(spent_s, len(fitting), name))
        if len(fitting) == len(items):
            return list(answers)
        in_order = iter(answers)
        return [
            next(in_order) if item.image.shape == wanted else WrongImageSize(size) for item in items
        ]


def _answer(model: _Model, items: list[_Item]) -> tuple[list[bytes], dict[str, float]]:
    """The answers, and the seconds of each stage."""
    began = time.monotonic()
    probabilities = model.engine.infer(np.stack([item.image for item in items]))
    inferred = time.monotonic()
    answers = model.labeller.answers(probabilities, [item.choice for item in items])
    stages_s = {"inference": inferred - began, "encode": time.monotonic() - inferred}
    for stage, spent_s in stages_s.items():
        record(STAGE_S, spent_s, stage=stage)
    real = [n for n, item in enumerate(items) if item.request_id != PROBE_ID]
    if len(real) < len(items):
        probabilities = {head: rows[real] for head, rows in probabilities.items()}
    if real:
        model.predictions.observe(probabilities)
    return answers, stages_s


def _identity(model: _Model) -> dict[str, str]:
    spec, config = model.artifact.spec, model.config
    return {
        "model": spec.name,
        "version": spec.version,
        "engine": config.engine,
        "precision": config.precision,
    }


def _load(user_config: dict[str, Any]) -> _Model:
    start = time.monotonic()
    config = parse(ClassifierConfig, user_config)
    artifact = load_artifact(config.model_path)
    emulated_s = config.emulated_batch_s, config.emulated_image_s
    engine = load_engine(config.engine, artifact, config.threads, config.precision, emulated_s)
    spec, loaded = artifact.spec, time.monotonic()
    # The first inference takes longest, and a model that can't infer never comes into service.
    engine.infer(np.zeros((1, spec.image.height_px, spec.image.width_px, 3), np.uint8))
    load_s, warm_up_s = loaded - start, time.monotonic() - loaded
    logger.info(
        "model %s %s loaded with %s, %s, in %.2f s",
        spec.name, spec.version, config.engine, config.precision, load_s + warm_up_s,
    )  # fmt: skip
    return _Model(artifact, engine, Labeller(spec), config, Predictions(spec), load_s, warm_up_s)

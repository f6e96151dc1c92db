"""The classifier deployment: batches images, runs the model, and swaps it while it serves."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deployments.errors import WrongImageSize
from deployments.messages import PROBE_ID, Answer, GroupAnswers, ImageGroup, Trace
from deployments.pipeline.autoscaling import PHOTOS_HELD
from deployments.pipeline.batcher import Batcher, BatchLimits
from deployments.pipeline.listener import Listener
from deployments.pipeline.memory import keep_trimming
from deployments.pipeline.model import Model
from deployments.pipeline.priority import give_way
from deployments.pipeline.wire import decode_images
from deployments.settings import Settings
from deployments.telemetry.catalogue import (
    ENGINE_BUSY,
    MODEL_INFO,
    MODEL_LOAD,
    MODEL_UPDATES,
    MODEL_WARM_UP,
    QUEUE_LENGTH,
    STAGE_DURATION,
    UPDATE_STUCK,
)
from deployments.telemetry.predictions import PredictionSums
from deployments.telemetry.recorder import Recorder
from mlc_core.labels import Choice
from mlc_core.spec import ImageSize

logger = logging.getLogger("ray.serve")

_RETRY_EVERY_S = 10.0
_ANY_BYTES = 2**40  # images are all of one size, so their number bounds a batch


class _Slice(NamedTuple):
    """Images of one group that go through the engine together."""

    images: NDArray[np.uint8]  # (N, H, W, 3)
    choices: Sequence[Choice]
    request_ids: Sequence[str]
    since: float  # monotonic
    traces: list[Trace]  # of the group; each batch adds its own


class _Refused(NamedTuple):
    """A model update that failed."""

    user_config: dict[str, Any]
    reason: str
    error: str  # its class


class Classifier:
    """Answers images with labels, and with the version of the model that chose them."""

    def __init__(self, settings: Settings, recorder: Recorder | None = None) -> None:
        self._listener = Listener(self.classify, decode_images, lambda group: len(group.choices))
        batching = settings.batching
        self._recorder = recorder or Recorder()
        self._batcher: Batcher[_Slice, list[Answer]] = Batcher(
            self._infer,
            BatchLimits(
                batching.max_images, _ANY_BYTES, batching.max_in_flight, batching.max_waiting
            ),
            self._recorder.batch_observer("images"),
        )
        self._max_images, self._max_in_flight = batching.max_images, batching.max_in_flight
        self._threads = ThreadPoolExecutor(batching.max_in_flight, thread_name_prefix="engine")
        self._reconfiguring = asyncio.Lock()
        self._model: Model | None = None
        self._refused: _Refused | None = None
        # The previous model's sums stay: one of its batches may still be running.
        self._predictions = deque[PredictionSums](maxlen=2)
        loop = asyncio.get_running_loop()
        self._background = [
            loop.create_task(work, context=contextvars.Context())
            for work in (
                self._recorder.export(self._set_gauges),
                self._keep_retrying(),
                keep_trimming(),
            )
        ]

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the model that the Serve config names; the one in service answers meanwhile.

        Raises:
            Exception: the first model can't be loaded. When a later one can't, the replica logs
                the reason, keeps the model in service, and retries until it can or until another
                model is named.
        """
        async with self._reconfiguring:
            try:
                self._model = await asyncio.to_thread(
                    Model, user_config, self._recorder, self._model
                )
                self._predictions.append(self._model.predictions)
                self._refused = None
                self._recorder.record(MODEL_UPDATES, 1, outcome="loaded")
            except Exception as error:
                if self._model is None:
                    raise
                refused = _Refused(user_config, str(error), type(error).__name__)
                if refused != self._refused:  # a retry that fails alike is not news
                    self._recorder.record(MODEL_UPDATES, 1, outcome="refused")
                    logger.error(
                        "model update refused, %s stays in service: %s",
                        self._model.identity, refused.reason, exc_info=error,
                    )  # fmt: skip
                self._refused = refused

    async def retry_refused_update(self) -> None:
        """Try the model that was refused last again: its artifact may have been repaired."""
        if self._refused is not None:
            await self.reconfigure(self._refused.user_config)

    async def _keep_retrying(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_EVERY_S)
            await self.retry_refused_update()

    async def record_replica_metadata(self) -> dict[str, Any]:
        """What Serve tells callers of this replica: where it listens for groups."""
        give_way()
        return await self._listener.start()

    async def check_health(self) -> None:
        """Fail when callers can't reach this replica."""
        self._listener.check()

    def __del__(self) -> Any:
        """Serve's only hook of a shutdown; it awaits what this returns."""
        return self._listener.close() if self._listener.is_listening else None

    async def answer_frame(
        self, protocol: bytes, head: bytes, payload: bytes
    ) -> tuple[bytes, bytes] | None:
        """See Listener; callers without a connection use it."""
        return await self._listener.answer_frame(protocol, head, payload)

    async def classify(self, group: ImageGroup) -> GroupAnswers:
        """Answer each image of a group, in its order."""
        now, traces = time.monotonic(), list[Trace]()
        count = len(group.choices)
        shape = (count, group.height_px, group.width_px, 3)
        images = np.frombuffer(group.pixels, np.uint8).reshape(shape)
        starts = range(0, count, self._max_images)
        parts = [slice(start, min(start + self._max_images, count)) for start in starts]
        futures = [
            self._batcher.submit(
                _Slice(images[part], group.choices[part], group.request_ids[part], now, traces),
                count=part.stop - part.start,
                deadline=group.deadline.at,
            )
            for part in parts
        ]
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        answers: list[Any] = []
        for part, outcome in zip(parts, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                answers += [outcome] * (part.stop - part.start)
            else:
                answers += outcome
        return GroupAnswers(answers, Trace.merge(traces))

    async def describe(self) -> dict[str, Any]:
        """What GET /v1/model answers: the model in service, and why a later one was refused."""
        reason = self._refused.reason if self._refused else None
        return self._in_service().describe() | {"refused_update": reason}

    async def image_size(self) -> ImageSize:
        """The size that the model in service takes."""
        return self._in_service().spec.image

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve asks a replica for when it scales; see `autoscaling`."""
        return {PHOTOS_HELD: float(self._batcher.held)}

    def _in_service(self) -> Model:
        if self._model is None:
            raise RuntimeError("the classifier needs a user_config that names a model")
        return self._model

    def _set_gauges(self) -> None:
        record = self._recorder.record
        record(QUEUE_LENGTH, self._batcher.waiting, queue="images")
        record(
            UPDATE_STUCK,
            self._refused is not None,
            error=self._refused.error if self._refused else "",
        )
        if self._model is not None:
            record(MODEL_INFO, 1, **self._model.labels)
            record(MODEL_LOAD, self._model.load_s)
            record(MODEL_WARM_UP, self._model.warm_up_s)
        for predictions in self._predictions:
            predictions.record()

    async def _infer(self, slices: list[_Slice]) -> list[list[Answer] | Exception]:
        model = self._in_service()
        size = model.spec.image
        shape = (size.height_px, size.width_px, 3)
        # Images that were decoded for the previous model may have another size.
        fitting = [each for each in slices if each.images.shape[1:] == shape]
        answers = iter(await self._run(model, fitting) if fitting else ())
        return [
            list(islice(answers, len(each.images)))
            if each.images.shape[1:] == shape
            else WrongImageSize(size)
            for each in slices
        ]

    async def _run(self, model: Model, slices: list[_Slice]) -> list[Answer]:
        began = time.monotonic()
        images = [each.images for each in slices]
        request_ids = [request_id for each in slices for request_id in each.request_ids]
        try:
            answers, stages_s = await asyncio.get_running_loop().run_in_executor(
                self._threads,
                model.answer,
                images[0] if len(images) == 1 else np.concatenate(images),
                [choice for each in slices for choice in each.choices],
                [request_id != PROBE_ID for request_id in request_ids],
            )
        except Exception:
            logger.exception("inference failed, requests %s", ", ".join(request_ids))
            raise
        record = self._recorder.record
        record(ENGINE_BUSY, (time.monotonic() - began) / self._max_in_flight)
        for stage, spent_s in stages_s.items():
            record(STAGE_DURATION, spent_s, stage=stage)
        for each in slices:
            queued = {"images_queue": began - each.since}
            each.traces.append(Trace(queued | stages_s, len(request_ids), model.identity))
        return answers

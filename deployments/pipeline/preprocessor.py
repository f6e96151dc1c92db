"""The preprocessor deployment: decodes photos, and calls each classifier once for each group."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle

from deployments.errors import DeadlinePassed, Unavailable, WrongImageSize
from deployments.messages import (
    PROBE_ID,
    Answer,
    Deadline,
    GroupAnswers,
    ImageGroup,
    Photo,
    PhotoGroup,
    Trace,
)
from deployments.pipeline.autoscaling import GROUPS_HELD
from deployments.pipeline.calls import Target, call, connect
from deployments.pipeline.lanes import is_large
from deployments.pipeline.listener import Listener
from deployments.pipeline.memory import keep_trimming
from deployments.pipeline.merging import merge_outcomes
from deployments.pipeline.priority import give_way
from deployments.pipeline.quarantine import HarmfulPhotos
from deployments.pipeline.wire import decode_photos, encode_images
from deployments.settings import Settings
from deployments.telemetry.catalogue import PHOTOS_RECEIVED, STAGE_DURATION
from deployments.telemetry.recorder import Recorder
from mlc_core.errors import PhotoFault
from mlc_core.photo import decode, decode_s, format_of
from mlc_core.spec import ImageSize

logger = logging.getLogger("ray.serve")

_TRIES = 3


@dataclass
class _Progress:
    """A group, and what is known of its photos so far.

    Attributes:
        answers: number of the photo in the group -> its answer.
    """

    group: PhotoGroup
    answers: dict[int, Answer] = field(default_factory=dict)
    traces: list[Trace] = field(default_factory=list)

    def unanswered(self) -> list[int]:
        """Numbers of the photos that have no answer yet."""
        return [n for n in range(len(self.group.photos)) if n not in self.answers]


class Preprocessor:
    """Decodes every photo on its own: one that can't be decoded is a fault of its own."""

    def __init__(
        self,
        classifiers: Sequence[DeploymentHandle[Any]],
        settings: Settings,
        recorder: Recorder | None = None,
    ) -> None:
        self._listener = Listener(self.preprocess, decode_photos, lambda group: len(group.photos))
        self._classify = [Target(classifier, encode_images) for classifier in classifiers]
        self._groups_held = 0
        self._harmful = HarmfulPhotos()
        self._careful = asyncio.Lock()
        self._ask_image_size = connect(classifiers[0], "image_size")
        self._settings = settings
        self._recorder = recorder or Recorder()
        self._size: ImageSize | None = None
        # A decoding thread may hold the interpreter for this long while a decoded group waits to
        # be sent. Python's default of 5 ms keeps the classifier idle.
        sys.setswitchinterval(0.0005)
        # Large photos have threads of their own, so that small ones never wait behind them.
        self._small = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="small")
        self._large = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="large")
        loop = asyncio.get_running_loop()
        self._background = [
            loop.create_task(work, context=contextvars.Context())
            for work in (self._recorder.export(), self._learn_image_size(), keep_trimming())
        ]

    async def record_replica_metadata(self) -> dict[str, Any]:
        """What Serve tells callers of this replica: where it listens for groups."""
        give_way()
        return await self._listener.start()

    async def check_health(self) -> None:
        """Fail when callers can't reach this replica."""
        self._listener.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve asks a replica for when it scales; see `autoscaling`."""
        return {GROUPS_HELD: float(self._groups_held)}

    def __del__(self) -> Any:
        """Serve's only hook of a shutdown; it awaits what this returns."""
        return self._listener.close() if self._listener.is_listening else None

    async def answer_frame(
        self, protocol: bytes, head: bytes, payload: bytes
    ) -> tuple[bytes, bytes] | None:
        """See Listener; callers without a connection use it."""
        return await self._listener.answer_frame(protocol, head, payload)

    async def preprocess(self, group: PhotoGroup) -> GroupAnswers:
        """Answer each photo of a group, in its order.

        Raises:
            Unavailable: no classifier answers.
        """
        self._groups_held += 1
        try:
            return await self._preprocess(group)
        finally:
            self._groups_held -= 1

    async def _preprocess(self, group: PhotoGroup) -> GroupAnswers:
        self._harmful.add(group.harmful)
        progress = _Progress(group, self._harmful.refusals(group.photos))
        if self._recorder.enabled:
            traffic = (photo.data for photo in group.photos if photo.request_id != PROBE_ID)
            for name, count in Counter(map(format_of, traffic)).items():
                self._recorder.record(PHOTOS_RECEIVED, count, format=name)
        for _ in range(_TRIES):
            waiting = progress.unanswered()
            if not waiting:
                break
            # While versions roll out, classifiers may differ in the size that they take. One that
            # gets another size says which it wants, and the group is decoded again.
            images = await self._decode(progress, waiting, await self._image_size())
            for n, answer in await self._infer(progress, images):
                if isinstance(answer, WrongImageSize):
                    self._size = answer.wanted
                else:
                    progress.answers[n] = answer
        changed = Unavailable("the model in service changed too often meanwhile; try again")
        answers = [progress.answers.get(n, changed) for n in range(len(group.photos))]
        return GroupAnswers(answers, Trace.merge(progress.traces))

    async def _image_size(self) -> ImageSize:
        if self._size is None:
            self._size = await call(self._ask_image_size)
        return self._size

    async def _learn_image_size(self) -> None:
        with suppress(Unavailable):  # the first group asks again
            await self._image_size()

    async def _decode(
        self, progress: _Progress, waiting: Sequence[int], size: ImageSize
    ) -> dict[int, NDArray[np.uint8]]:
        """The images of the photos in `waiting`, by their number in the group."""
        group, photos, max_pixels = (
            progress.group, progress.group.photos, self._settings.limits.max_photo_pixels
        )  # fmt: skip
        large = is_large(photos[waiting[0]].data, self._settings.large_photo_bytes)
        threads = self._large if large else self._small
        loop, began = asyncio.get_running_loop(), time.monotonic()

        async def decode_part(part: Sequence[int]) -> list[NDArray[np.uint8] | Exception]:
            these = [photos[n] for n in part]
            return await loop.run_in_executor(
                threads, _decode_all, these, group.deadline, size, max_pixels
            )

        parts = [[n] for n in waiting] if large or group.careful else [list(waiting)]
        if group.careful:
            decoded = []
            async with self._careful:
                for part in parts:
                    await group.begins(part[0])
                    decoded.append(await decode_part(part))
                # What takes the replica down later is none of these.
                await group.begins(None)
        else:
            decoded = await asyncio.gather(*map(decode_part, parts))
        spent_s = time.monotonic() - began
        self._recorder.record(STAGE_DURATION, spent_s, stage="decode")
        progress.traces.append(Trace({"decode": spent_s}, 0, ""))
        images = {}
        for part, results in zip(parts, decoded, strict=True):
            for n, result in zip(part, results, strict=True):
                if isinstance(result, Exception):
                    progress.answers[n] = result
                else:
                    images[n] = result
        return images

    async def _infer(
        self, progress: _Progress, images: dict[int, NDArray[np.uint8]]
    ) -> list[tuple[int, Answer]]:
        if not images:
            return []
        photos, deadline = progress.group.photos, progress.group.deadline
        height_px, width_px, _ = next(iter(images.values())).shape
        group = ImageGroup(
            b"".join(image.tobytes() for image in images.values()),
            height_px,
            width_px,
            [photos[n].choice for n in images],
            [photos[n].request_id for n in images],
            deadline,
        )
        replies: list[GroupAnswers] = await asyncio.gather(
            *(classify(group) for classify in self._classify)
        )
        progress.traces += [reply.trace for reply in replies]
        merged = map(merge_outcomes, zip(*(reply.answers for reply in replies), strict=True))
        return list(zip(images, merged, strict=True))


def _decode_all(
    photos: Sequence[Photo], deadline: Deadline, size: ImageSize, max_pixels: int
) -> list[NDArray[np.uint8] | Exception]:
    images: list[NDArray[np.uint8] | Exception] = []
    for photo in photos:
        # Decoding can't be stopped: what would end too late is not begun.
        if deadline.left_s() <= decode_s(photo.data):
            images.append(DeadlinePassed("the deadline passed before decoding; try again"))
            continue
        try:
            images.append(decode(photo.data, size, max_pixels))
        except PhotoFault as fault:
            # Its traceback would hold this frame, and so itself and all photos of the group.
            images.append(fault.with_traceback(None))
        except Exception:  # a fault of ours must not spoil the rest of the group
            logger.exception("decoding failed, request %s", photo.request_id)
            images.append(RuntimeError("decoding failed; the preprocessor's log tells why"))
    return images

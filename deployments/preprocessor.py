"""The preprocessor: photos to images, and one call to each classifier for each group."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle

from deployments.calls import call, connect
from deployments.errors import DeadlinePassed, Unavailable, WrongImageSize
from deployments.merging import merge_answers, merge_traces
from deployments.messages import (
    PROBE_ID,
    Answer,
    Answers,
    Images,
    Photo,
    Trace,
    deadline,
    left_s,
)
from deployments.metrics import PHOTOS, STAGE_S, export, record
from deployments.settings import Settings
from mlc_core.errors import PhotoFault
from mlc_core.photo import decode, format_of
from mlc_core.spec import ImageSize

logger = logging.getLogger("ray.serve")

# The first group is decoded to this; the classifier corrects it when its model takes another.
_FIRST_GUESS = ImageSize(height_px=80, width_px=60)
_TRIES = 3


@dataclass
class _Group:
    """Photos that came together, and what is known of them so far.

    Attributes:
        deadlines: of each photo, on the monotonic clock.
        answers: number of the photo -> its answer.
    """

    photos: Sequence[Photo]
    deadlines: Sequence[float]
    answers: dict[int, Answer] = field(default_factory=dict)
    traces: list[Trace] = field(default_factory=list)


class Preprocessor:
    """Judges every photo alone: one that can't be decoded is a fault of its own."""

    def __init__(self, classifiers: Sequence[DeploymentHandle[Any]], settings: Settings) -> None:
        self._classify = [connect(classifier, "classify") for classifier in classifiers]
        self._settings = settings
        self._size = _FIRST_GUESS
        # A decoding thread may hold the interpreter this long while a decoded group waits to be
        # sent; Python's 5 ms keep the classifier idle.
        sys.setswitchinterval(0.0005)
        # Large photos have threads of their own, so that small ones never wait behind them.
        self._small = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="small")
        self._large = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="large")
        self._background = asyncio.get_running_loop().create_task(
            export(lambda: None), context=contextvars.Context()
        )

    async def classify(self, photos: list[Photo]) -> Answers:
        """Answer each photo of a group, in its order.

        Raises:
            Unavailable: no classifier answers.
        """
        group = _Group(photos, [deadline(photo.left_s) for photo in photos])
        real = (photo.data for photo in photos if photo.request_id != PROBE_ID)
        for name, count in Counter(map(format_of, real)).items():
            record(PHOTOS, count, format=name)
        for _ in range(_TRIES):
            if len(group.answers) == len(photos):
                break
            # The classifier says which size it wants when it gets another; while versions roll
            # out, replicas may differ.
            images = await self._decode(group)
            for n, answer in await self._infer(group, images):
                if isinstance(answer, WrongImageSize):
                    self._size = answer.wanted
                else:
                    group.answers[n] = answer
        late = Unavailable("the model in service changed too often meanwhile; try again")
        answers = [group.answers.get(n, late) for n in range(len(photos))]
        return Answers(answers, merge_traces(group.traces))

    async def _decode(self, group: _Group) -> dict[int, NDArray[np.uint8]]:
        """The images of those that have no answer yet, by their number in the group."""
        photos = group.photos
        waiting = [n for n in range(len(photos)) if n not in group.answers]
        size, limit = self._size, self._settings.limits.photo_pixels
        large = len(photos[waiting[0]].data) >= self._settings.large_photo_bytes
        parts = [[n] for n in waiting] if large else [waiting]
        loop, began = asyncio.get_running_loop(), time.monotonic()
        decoded = await asyncio.gather(
            *(
                loop.run_in_executor(
                    self._large if large else self._small,
                    _decode, [photos[n] for n in part], [group.deadlines[n] for n in part],
                    size, limit,
                )
                for part in parts
            )
        )  # fmt: skip
        spent_s = time.monotonic() - began
        record(STAGE_S, spent_s, stage="decode")
        group.traces.append(Trace({"decode": spent_s}, 0, ""))
        images = {}
        for part, results in zip(parts, decoded, strict=True):
            for n, result in zip(part, results, strict=True):
                if isinstance(result, Exception):
                    group.answers[n] = result
                else:
                    images[n] = result
        return images

    async def _infer(
        self, group: _Group, images: dict[int, NDArray[np.uint8]]
    ) -> list[tuple[int, Answer]]:
        if not images:
            return []
        height_px, width_px, _ = next(iter(images.values())).shape
        message = Images(
            b"".join(image.tobytes() for image in images.values()),
            height_px,
            width_px,
            [group.photos[n].choice for n in images],
            [left_s(group.deadlines[n]) for n in images],
            [group.photos[n].request_id for n in images],
        )
        said: list[Answers] = await asyncio.gather(
            *(call(classify, message) for classify in self._classify)
        )
        group.traces += [each.trace for each in said]
        merged = map(merge_answers, zip(*(each.answers for each in said), strict=True))
        return list(zip(images, merged, strict=True))


def _decode(
    photos: Sequence[Photo], deadlines: Sequence[float], size: ImageSize, max_pixels: int
) -> list[NDArray[np.uint8] | Exception]:
    images: list[NDArray[np.uint8] | Exception] = []
    for photo, until in zip(photos, deadlines, strict=True):
        if left_s(until) <= 0:
            images.append(DeadlinePassed("the deadline passed before decoding; try again"))
            continue
        try:
            images.append(decode(photo.data, size, max_pixels))
        except PhotoFault as fault:
            images.append(fault)
        except Exception:  # a fault of ours must not spoil the rest of the group
            logger.exception("decoding failed, request %s", photo.request_id)
            images.append(RuntimeError("decoding failed; the preprocessor's log tells why"))
    return images

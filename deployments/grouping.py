"""The ingress' way to the classifier: photos that wait go together, one call a group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from deployments.batching import Batcher
from deployments.errors import DeadlinePassed
from deployments.messages import Answer, Answers, Photo, left_s
from deployments.metrics import STAGE_S, WAITING, batch_observer, record
from deployments.request_log import Entry
from deployments.settings import Settings
from mlc_core.labels import Choice

_LATE = "no answer within the time that a request is given; try again"


class _Waiting(NamedTuple):
    data: bytes
    choice: Choice
    since: float
    deadline: float
    entry: Entry


class Grouping:
    """Two lanes of groups, so that small photos neither ride with large ones nor wait for them.

    Args:
        send: takes a group to the preprocessor.
        observer: makes what each lane reports its groups to; see metrics.batch_observer.
    """

    def __init__(
        self,
        send: Callable[[list[Photo]], Awaitable[Answers]],
        settings: Settings,
        observer: Callable[[str], Callable[[int, float], None]] = batch_observer,
    ) -> None:
        self._send = send
        self._deadline_s = settings.deadline_s
        self._large_photo_bytes = settings.large_photo_bytes
        self._small: Batcher[_Waiting, bytes] = Batcher(
            partial(self._run, "small_photos_queue"),
            settings.small_photos.bounds(),
            observer("small_photos"),
        )
        self._large: Batcher[_Waiting, bytes] = Batcher(
            partial(self._run, "large_photos_queue"),
            settings.large_photos.bounds(),
            observer("large_photos"),
        )
        self.last_answer_at = float("-inf")

    async def classify(
        self, photo: bytes, choice: Choice, client_left: Callable[[], bool], entry: Entry
    ) -> bytes:
        """The JSON that answers a photo.

        Args:
            client_left: asked when the photo's turn comes.
            entry: of its request; told how long the photo waited, and of its group.

        Raises:
            ClientLeft: it had; no call was made for it.
            PhotoFault: the photo can't be classified.
            ServiceError: the service can't answer, or not in time.
        """
        future = self._submit(photo, choice, entry, client_left)
        # A timer costs a third of asyncio.timeout.
        timer = asyncio.get_running_loop().call_later(self._deadline_s, _expire, future)
        try:
            return await future
        finally:
            timer.cancel()

    def gauge(self) -> None:
        """Record how many photos no group has taken yet, in each lane."""
        record(WAITING, self._small.waiting, queue="small_photos")
        record(WAITING, self._large.waiting, queue="large_photos")

    async def classify_many(
        self, photos: Sequence[bytes], choice: Choice, entry: Entry
    ) -> list[Answer]:
        """The answer to each photo, in their order, within the deadline of one request."""
        if not photos:  # of a batch, every one was at fault
            return []
        futures = [self._submit(photo, choice, entry) for photo in photos]
        try:
            await asyncio.wait(futures, timeout=self._deadline_s)
        finally:  # those still waiting, when the deadline passed or the client left
            for future in futures:
                future.cancel()
        return [_answer(future) for future in futures]

    def _submit(
        self,
        photo: bytes,
        choice: Choice,
        entry: Entry,
        client_left: Callable[[], bool] = lambda: False,
    ) -> asyncio.Future[bytes]:
        lane = self._small if len(photo) < self._large_photo_bytes else self._large
        now = time.monotonic()
        deadline = now + self._deadline_s
        return lane.submit(
            _Waiting(photo, choice, now, deadline, entry),
            size_bytes=len(photo),
            deadline=deadline,
            client_left=client_left,
        )

    async def _run(self, queue: str, group: list[_Waiting]) -> Sequence[Answer]:
        now = time.monotonic()
        photos = [
            Photo(photo.data, photo.choice, photo.deadline - now, photo.entry.request_id)
            for photo in group
        ]
        for photo in group:  # of a request's photos, the first of its last group waited longest
            photo.entry.stages_s[queue] = now - photo.since
        record(STAGE_S, max(photo.entry.stages_s["read"] for photo in group), stage="read")
        last_deadline = max(photo.deadline for photo in group)
        try:
            # Nobody waits for it any longer then: a call that hangs must not keep its slot.
            async with asyncio.timeout(left_s(last_deadline)):
                answers, trace = await self._send(photos)
        except TimeoutError as error:
            raise DeadlinePassed(_LATE) from error
        for photo in group:
            photo.entry.traces.append(trace)
        self.last_answer_at = time.monotonic()
        return answers


def _expire(future: asyncio.Future[bytes]) -> None:
    if not future.done():
        future.set_exception(DeadlinePassed(_LATE))


def _answer(future: asyncio.Future[bytes]) -> Answer:
    if future.cancelled():
        return DeadlinePassed(_LATE)
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, Exception):
        return error
    raise error

"""The ingress' side of the pipeline: groups the photos that wait, and sends the groups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from deployments.errors import DeadlinePassed, Overloaded, ServiceError, Unavailable
from deployments.messages import Answer, Deadline, GroupAnswers, Photo, PhotoGroup, Trace
from deployments.pipeline.batcher import Batcher, BatchLimits
from deployments.pipeline.lanes import is_large
from deployments.settings import LaneSettings, Settings
from deployments.telemetry.catalogue import QUEUE_LENGTH
from deployments.telemetry.recorder import Recorder
from mlc_core.labels import Choice

_LATE = "no answer within the deadline of a request; try again"
_SILENT = "no replica that classifies has answered within the deadline of a request; try again"


class Dispatched(NamedTuple):
    """What became of one photo.

    Attributes:
        stage: the lane's stage in the metrics, `small_photos_queue` or `large_photos_queue`.
        waited_s: seconds in that lane.
        trace: the trace of its group.
    """

    answer: Answer
    stage: str
    waited_s: float
    trace: Trace


class _Waiting(NamedTuple):
    photo: Photo
    since: float
    deadline: Deadline


class Dispatcher:
    """Two lanes of groups, so that small photos neither travel with large ones nor wait for them.

    Args:
        send: takes a group to the preprocessor.

    Attributes:
        last_answer_at: when a photo last got labels, on the monotonic clock.
    """

    def __init__(
        self,
        send: Callable[[PhotoGroup], Awaitable[GroupAnswers]],
        settings: Settings,
        recorder: Recorder,
    ) -> None:
        self._send, self._recorder = send, recorder
        self._deadline_s = settings.deadline_s
        self._large_photo_bytes = settings.large_photo_bytes

        def lane(queue: str, limits: LaneSettings) -> Batcher[_Waiting, Dispatched]:
            bounds = BatchLimits(
                limits.max_photos,
                limits.max_bytes,
                limits.max_in_flight,
                limits.max_waiting,
                settings.max_wait_s,
                limits.max_waiting_bytes,
            )
            return Batcher(
                partial(self._run, f"{queue}_queue"), bounds, recorder.batch_observer(queue)
            )

        self._small = lane("small_photos", settings.small_lane)
        self._large = lane("large_photos", settings.large_lane)
        self.last_answer_at = float("-inf")

    def refusal(self, size_bytes: int) -> Overloaded | None:
        """Why a photo of that size would be refused now; None if it would not be."""
        return self._lane(size_bytes).refusal()

    def expected_wait_s(self, size_bytes: int) -> float:
        """How long a photo of that size that came now would wait."""
        return self._lane(size_bytes).expected_wait_s()

    def submit_all(
        self, photos: Sequence[bytes], choice: Choice, request_id: str
    ) -> list[asyncio.Future[Dispatched]]:
        """Queue the photos of one request.

        The wait before the first of a lane decides for all that follow it there: they wait for each
        other, which is no overload. Each still needs room.
        """
        submitted: list[asyncio.Future[Dispatched]] = []
        admitted: dict[bool, bool] = {}
        for photo in photos:
            large = is_large(photo, self._large_photo_bytes)
            future = self._submit(photo, choice, request_id, large, admitted.get(large, False))
            admitted[large] = not future.done()
            submitted.append(future)
        return submitted

    def submit(self, data: bytes, choice: Choice, request_id: str) -> asyncio.Future[Dispatched]:
        """Queue a photo. Finish the future to take the photo back; no group takes it then.

        Returns:
            A future that raises ServiceError when the photo never reached the pipeline's end.
        """
        return self._submit(data, choice, request_id, is_large(data, self._large_photo_bytes))

    def _submit(
        self, data: bytes, choice: Choice, request_id: str, large: bool, admitted: bool = False
    ) -> asyncio.Future[Dispatched]:
        now = time.monotonic()
        deadline = Deadline(now + self._deadline_s)
        waiting = _Waiting(Photo(data, choice, request_id), now, deadline)
        lane = self._large if large else self._small
        return lane.submit(waiting, size_bytes=len(data), admitted=admitted)

    def _lane(self, size_bytes: int) -> Batcher[_Waiting, Dispatched]:
        """The lane of a photo of which no more is known."""
        return self._small if size_bytes < self._large_photo_bytes else self._large

    async def send(self, group: PhotoGroup) -> GroupAnswers:
        """Take a group to the preprocessor at once; notes when photos got labels."""
        answers = await self._send(group)
        if any(isinstance(answer, bytes) for answer in answers.answers):
            self.last_answer_at = time.monotonic()
        return answers

    async def wait(self, submitted: asyncio.Future[Dispatched]) -> Dispatched:
        """Wait for a submitted photo until its deadline.

        Raises:
            ServiceError: the service can't answer, or not in time.
        """
        # A timer costs a third of asyncio.timeout.
        timer = asyncio.get_running_loop().call_later(self._deadline_s, self._expire, submitted)
        try:
            return await submitted
        finally:
            timer.cancel()

    async def wait_for_all(
        self, submitted: Sequence[asyncio.Future[Dispatched]]
    ) -> list[Dispatched | Exception]:
        """Wait for the photos of one batch request until its deadline; each has its own outcome."""
        if submitted:
            try:
                await asyncio.wait(submitted, timeout=self._deadline_s)
                for future in submitted:
                    self._expire(future)
            finally:  # those without an answer when the client left
                for future in submitted:
                    future.cancel()
        return [future.exception() or future.result() for future in submitted]  # type: ignore[misc]

    def set_gauges(self) -> None:
        """Record how many photos wait in each lane."""
        self._recorder.record(QUEUE_LENGTH, self._small.waiting, queue="small_photos")
        self._recorder.record(QUEUE_LENGTH, self._large.waiting, queue="large_photos")

    async def _run(self, stage: str, group: list[_Waiting]) -> Sequence[Dispatched]:
        deadline = max((waiting.deadline for waiting in group), key=lambda deadline: deadline.at)
        began = time.monotonic()
        try:
            # A call that hangs gives its slot back when the last photo's deadline passes.
            async with asyncio.timeout(deadline.left_s()):
                answers, trace = await self.send(
                    PhotoGroup([waiting.photo for waiting in group], deadline)
                )
        except TimeoutError as error:
            raise self._late() from error
        return [
            Dispatched(answer, stage, began - waiting.since, trace)
            for waiting, answer in zip(group, answers, strict=True)
        ]

    def _expire(self, submitted: asyncio.Future[Dispatched]) -> None:
        if not submitted.done():
            submitted.set_exception(self._late())

    def _late(self) -> ServiceError:
        """Why there is no answer in time: the pipeline is slow, or it is gone."""
        silent_s = time.monotonic() - self.last_answer_at
        return DeadlinePassed(_LATE) if silent_s < self._deadline_s else Unavailable(_SILENT)

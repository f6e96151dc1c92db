"""Photos that kill the replica that decodes them: found, refused, and remembered for a while.

A decoder is native code, and a bug in it ends the whole process. When a preprocessor is lost, each
photo that it held goes to another one alone, one after the other. A photo that is alone when the
second preprocessor is lost is the cause: it is refused, now and whenever it comes again. So no
photo takes down more than two replicas.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from deployments.errors import HarmfulPhoto
from deployments.messages import Answer, GroupAnswers, Photo, PhotoGroup, Trace
from deployments.pipeline.replicas import ReplicaLost

REMEMBERED_S = 600.0
_MOST = 64  # photos; the oldest is forgotten first
_REFUSED = (
    "the replicas that tried to decode this photo ended; it is not tried again. "
    "Open it in an image editor and save it anew"
)

Send = Callable[[PhotoGroup], Awaitable[GroupAnswers]]


def digest_of(photo: Photo) -> bytes:
    return hashlib.sha256(photo.data).digest()


class HarmfulPhotos:
    """The photos that are refused, by the SHA-256 of their bytes.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def add(self, digests: Iterable[bytes]) -> None:
        """Refuse them from now on; those that are known already are not kept for longer."""
        for digest in digests:
            self._until.setdefault(digest, self._clock() + REMEMBERED_S)
        while len(self._until) > _MOST:
            del self._until[next(iter(self._until))]

    def digests(self) -> list[bytes]:
        """Those that are refused now."""
        now = self._clock()
        while self._until and (first := next(iter(self._until))) and self._until[first] <= now:
            del self._until[first]
        return list(self._until)

    def refusals(self, photos: Sequence[Photo]) -> dict[int, Answer]:
        """The number of each photo that is refused -> why."""
        if not self._until or not (refused := set(self.digests())):
            return {}
        return {
            n: HarmfulPhoto(_REFUSED)
            for n, photo in enumerate(photos)
            if digest_of(photo) in refused
        }


class Quarantine:
    """Sends groups, and finds the photo that takes replicas down.

    Args:
        send: takes a group to a replica; raises ReplicaLost when it was lost with the group.
        send_alone: the same for a group of one, but it waits for a replica that is connected, so
            that ReplicaLost says that this very photo had reached it.
    """

    def __init__(self, send: Send, send_alone: Send) -> None:
        self._send, self._send_alone = send, send_alone
        self._harmful = HarmfulPhotos()
        self._alone = asyncio.Lock()
        self._suspects: dict[bytes, asyncio.Event] = {}

    async def __call__(self, group: PhotoGroup) -> GroupAnswers:
        """Answer a group, in its order.

        Raises:
            ServiceError: no replica answered.
        """
        if self._suspects:
            await self._verdicts_on(group.photos)
        answers = self._harmful.refusals(group.photos)
        left = [n for n in range(len(group.photos)) if n not in answers]
        traces = []
        if left:
            rest = group._replace(
                photos=[group.photos[n] for n in left], harmful=self._harmful.digests()
            )
            try:
                reply = await self._send(rest)
            except ReplicaLost:
                reply = await self._one_by_one(rest)
            answers.update(zip(left, reply.answers, strict=True))
            traces.append(reply.trace)
            self._learn(group.photos, answers)
        return GroupAnswers([answers[n] for n in range(len(group.photos))], Trace.merge(traces))

    async def _verdicts_on(self, photos: Sequence[Photo]) -> None:
        """Wait until those that are under suspicion have been tried alone."""
        for photo in photos:
            if suspect := self._suspects.get(digest_of(photo)):
                await suspect.wait()

    async def _one_by_one(self, group: PhotoGroup) -> GroupAnswers:
        digests = [digest_of(photo) for photo in group.photos]
        suspects = {each: self._suspects.setdefault(each, asyncio.Event()) for each in digests}
        replies = []
        try:
            for photo, digest in zip(group.photos, digests, strict=True):
                async with self._alone:
                    replies.append(await self._try_alone(group, photo, digest))
                self._clear(digest, suspects[digest])
        finally:
            for digest, suspect in suspects.items():
                self._clear(digest, suspect)
        answers = [answer for reply in replies for answer in reply.answers]
        return GroupAnswers(answers, Trace.merge([reply.trace for reply in replies]))

    async def _try_alone(self, group: PhotoGroup, photo: Photo, digest: bytes) -> GroupAnswers:
        if refusals := self._harmful.refusals([photo]):
            return GroupAnswers([refusals[0]], Trace.merge([]))
        try:
            return await self._send_alone(
                PhotoGroup([photo], group.deadline, self._harmful.digests())
            )
        except ReplicaLost:
            self._harmful.add([digest])
            return GroupAnswers([HarmfulPhoto(_REFUSED)], Trace.merge([]))

    def _clear(self, digest: bytes, suspect: asyncio.Event) -> None:
        suspect.set()
        if self._suspects.get(digest) is suspect:
            del self._suspects[digest]

    def _learn(self, photos: Sequence[Photo], answers: dict[int, Answer]) -> None:
        """A preprocessor knows photos that other ingresses have found."""
        self._harmful.add(
            digest_of(photos[n])
            for n, answer in answers.items()
            if isinstance(answer, HarmfulPhoto)
        )

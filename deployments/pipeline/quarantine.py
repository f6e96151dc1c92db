"""Photos that kill the replica that decodes them: found, refused, and remembered for a while.

A decoder is native code, and a bug in it ends the whole process. When a preprocessor is lost with a
group, the group goes to another one as a careful one, which decodes one photo after the other and
says before each which it is. If that replica is lost too, this photo is the cause: it is refused,
now and whenever it comes again. So no photo takes down more than two replicas.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

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
        send_careful: the same for a careful group. It waits for a replica that is connected, and
            ReplicaLost says which photo had begun.
    """

    def __init__(self, send: Send, send_careful: Send) -> None:
        self._send, self._send_careful = send, send_careful
        self._harmful = HarmfulPhotos()
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
                reply = await self._send_suspects(rest)
            answers.update(zip(left, reply.answers, strict=True))
            traces.append(reply.trace)
            self._learn(group.photos, answers)
        return GroupAnswers(list(_in_order(answers)), Trace.merge(traces))

    async def _verdicts_on(self, photos: Sequence[Photo]) -> None:
        """Wait until those that are under suspicion have been tried once more."""
        for photo in photos:
            if suspect := self._suspects.get(digest_of(photo)):
                await suspect.wait()

    async def _send_suspects(self, group: PhotoGroup) -> GroupAnswers:
        """Answer a group that a replica was lost with, by careful groups."""
        digests = [digest_of(photo) for photo in group.photos]
        suspects = {each: self._suspects.setdefault(each, asyncio.Event()) for each in digests}
        answers: dict[int, Answer] = {}
        try:
            while True:
                answers |= self._harmful.refusals(group.photos)
                left = [n for n in range(len(group.photos)) if n not in answers]
                if not left:
                    return GroupAnswers(list(_in_order(answers)), Trace.merge([]))
                photos = [group.photos[n] for n in left]
                try:
                    reply = await self._send_careful(
                        PhotoGroup(photos, group.deadline, self._harmful.digests(), careful=True)
                    )
                except ReplicaLost as lost:
                    if lost.begun is not None:
                        self._harmful.add([digests[left[lost.begun]]])
                else:
                    answers |= dict(zip(left, reply.answers, strict=True))
                    return GroupAnswers(list(_in_order(answers)), reply.trace)
        finally:
            for digest, suspect in suspects.items():
                self._clear(digest, suspect)

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


def _in_order(answers: dict[int, Answer]) -> Iterator[Answer]:
    return (answers[n] for n in sorted(answers))

"""The photos of an ingress' last requests, for feedback that names a request."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict

REMEMBERED_S = 3600.0
_LOOK_EVERY_S = 60.0
_TWO = b""  # in place of the photos of an id that has two
_ENTRY_BYTES = 400  # what an entry takes beside its photo, a little more than seen


class RecentPhotos:
    """The photos of the last requests, by request id, so that feedback needs no photo.

    Clients may choose ids. One that was given to two photos names neither.

    Args:
        most_bytes: that all of them may take; the oldest is forgotten first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._photos: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def remember(self, request_id: str, photo: bytes) -> None:
        """Keep the photo of a request for REMEMBERED_S, if there is room."""
        if self._photos.get(request_id, (0.0, photo))[1] != photo:
            photo = _TWO
        self._forget(request_id)
        self._photos[request_id] = time.monotonic(), photo
        self._bytes += len(photo) + _ENTRY_BYTES
        self.forget_old()

    def get(self, request_id: str) -> bytes | None:
        """The photo of a request, if it is remembered."""
        since, photo = self._photos.get(request_id, (float("-inf"), _TWO))
        return photo if photo and time.monotonic() - since < REMEMBERED_S else None

    def forget_old(self) -> None:
        """Forget what is older than REMEMBERED_S, and what there is no room for."""
        while self._photos:
            oldest, (since, _) = next(iter(self._photos.items()))
            if self._bytes <= self._most_bytes and time.monotonic() - since < REMEMBERED_S:
                break
            self._forget(oldest)

    async def keep_forgetting(self) -> None:
        """Forget old photos when nothing comes, too; until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.forget_old()

    def _forget(self, request_id: str) -> None:
        if (forgotten := self._photos.pop(request_id, None)) is not None:
            self._bytes -= len(forgotten[1]) + _ENTRY_BYTES

"""The photos of an ingress' last requests, for feedback that names a request."""

from __future__ import annotations

import time
from collections import OrderedDict

REMEMBERED_S = 3600.0


class RecentPhotos:
    """The photos of the last requests, by request id, so that feedback needs no photo.

    Args:
        most_bytes: that all of them may have; the oldest is forgotten first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._photos: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    def remember(self, request_id: str, photo: bytes) -> None:
        """Keep the photo of a request for REMEMBERED_S at most."""
        self._forget(request_id)
        self._photos[request_id] = time.monotonic(), photo
        self._bytes += len(photo)
        while self._photos:
            oldest, (since, _) = next(iter(self._photos.items()))
            if self._bytes <= self._most_bytes and time.monotonic() - since < REMEMBERED_S:
                break
            self._forget(oldest)

    def get(self, request_id: str) -> bytes | None:
        """The photo of a request, if it is remembered."""
        since, photo = self._photos.get(request_id, (float("-inf"), None))
        return photo if time.monotonic() - since < REMEMBERED_S else None

    def _forget(self, request_id: str) -> None:
        _, photo = self._photos.pop(request_id, (0.0, b""))
        self._bytes -= len(photo)

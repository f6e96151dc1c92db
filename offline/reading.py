"""Reads photos ahead of their decoding: from a directory, a zip, or the web."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import urllib3

from mlc_core.catalog.source import is_url
from mlc_core.sources.files import Unreadable, reader_of

MAX_BYTES = 10 * 2**20  # of a photo, as in the service
# Files that a thread reads in one go. Where reading is fast, one unit ahead is enough: with three
# units of 16, reading and decoding took twice the CPU.
_UNIT, _MOST_AHEAD = 64, 3
_URLS_AHEAD = 32
_ATTEMPTS, _WAIT_S, _FETCH_S = 3, 0.5, 30.0
_TIMEOUT = urllib3.Timeout(connect=5.0, read=10.0)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_PIECE = 1 << 16

Contents = bytes | Unreadable


class Photos:
    """The photos under a root. Names may be URLs, which are fetched.

    Raises:
        DataSetError: there is no such root on this machine.
    """

    def __init__(self, root: Path) -> None:
        self._open = ExitStack()
        self._file = self._open.enter_context(
            reader_of(root, "every node of a cluster needs to read it", MAX_BYTES)
        )
        self._threads = self._open.enter_context(ThreadPoolExecutor(_URLS_AHEAD))
        self._web = urllib3.PoolManager(
            maxsize=_URLS_AHEAD,
            timeout=_TIMEOUT,
            retries=urllib3.Retry(0, redirect=5),
            headers={"User-Agent": "mlc-catalog"},
        )

    def read(self, names: Sequence[str]) -> Iterator[Contents]:
        """The contents of each photo in order, or why it can't be read.

        While one is decoded, threads read the next. They keep a bounded number of photos.
        """
        size, ahead, most = (_UNIT, 1, _MOST_AHEAD)
        if any(map(is_url, names)):
            size, ahead, most = (1, _URLS_AHEAD, _URLS_AHEAD)
        waiting: deque[Future[list[Contents]]] = deque()
        for at in range(0, len(names), size):
            waiting.append(self._threads.submit(self._unit, names[at : at + size]))
            if len(waiting) > ahead:
                if not waiting[0].done():
                    ahead = min(ahead + 1, most)
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    def close(self) -> None:
        self._open.close()

    def _unit(self, names: Sequence[str]) -> list[Contents]:
        return [self._one(name) for name in names]

    def _one(self, name: str) -> Contents:
        try:
            return self._fetched(name) if is_url(name) else self._file(name)
        except Unreadable as error:
            return error

    def _fetched(self, url: str) -> bytes:
        why = ""
        until = time.monotonic() + _FETCH_S
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_WAIT_S * 2 ** (attempt - 1))
            try:
                response = self._web.request("GET", url, preload_content=False)
                try:
                    if response.status == 200:
                        return _body(response, until)
                    why = f"HTTP status {response.status}"
                    if response.status not in _AGAIN:
                        break
                finally:
                    response.close()
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                why = str(error)
            if time.monotonic() > until:
                break
        raise Unreadable("a photo that can't be fetched", why, "try again later")


def _body(response: urllib3.BaseHTTPResponse, until: float) -> bytes:
    pieces, length = [], 0
    for piece in response.stream(_PIECE):
        length += len(piece)
        if length > MAX_BYTES:
            raise Unreadable("too large a photo", f"it has over {MAX_BYTES} bytes", "shrink it")
        if time.monotonic() > until:
            raise urllib3.exceptions.TimeoutError(f"not complete within {_FETCH_S:g} s")
        pieces.append(piece)
    return b"".join(pieces)

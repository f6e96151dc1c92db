"""Reads photos ahead of their decoding: from a directory, a zip, or the web."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import SpooledTemporaryFile

from mlc_core.catalog.source import is_url
from mlc_core.sources.files import MAX_PHOTO_BYTES, Unreadable, reader_of
from offline.fetching import Web

# Files that a thread reads in one go, fewer if they are large. Where reading is fast, one unit
# ahead is enough: with three units of 16, reading and decoding took twice the CPU.
_UNIT, _UNIT_BYTES, _MOST_AHEAD = 64, 2**20, 2
_URLS_AHEAD = 32

Contents = bytes | Unreadable


class Photos:
    """The photos under a root. Names may be URLs, which are fetched.

    Raises:
        DataSetError: there is no such root on this machine.
    """

    def __init__(self, root: Path) -> None:
        self._open = ExitStack()
        self._file = self._open.enter_context(
            reader_of(root, "every node of a cluster needs to read it", MAX_PHOTO_BYTES)
        )
        self._threads = self._open.enter_context(ThreadPoolExecutor(_URLS_AHEAD))
        self._web = Web(_URLS_AHEAD)

    def read(self, names: Sequence[str], *, ahead: bool = True) -> Iterator[Contents]:
        """The contents of each photo in order, or why it can't be read.

        While one is decoded, threads read the next. What waits is bounded: 3 units of files, each
        of less than a MiB and one photo, or 32 photos of the web, of which no more than a MiB is in
        memory.

        Args:
            ahead: whether a file may be read before it is its turn. URLs are fetched ahead anyway.
        """
        if not ahead or any(map(is_url, names)):
            return self._one_by_one(names)
        return self._units(names)

    def close(self) -> None:
        self._open.close()

    def _units(self, names: Sequence[str]) -> Iterator[Contents]:
        ahead = 1
        units = deque(names[at : at + _UNIT] for at in range(0, len(names), _UNIT))
        waiting: deque[tuple[Sequence[str], Future[list[Contents]]]] = deque()
        while units or waiting:
            while units and len(waiting) <= ahead:
                unit = units.popleft()
                waiting.append((unit, self._threads.submit(self._unit, unit)))
            unit, reading = waiting.popleft()
            if not reading.done():
                ahead = min(ahead + 1, _MOST_AHEAD)
            contents = reading.result()
            if rest := unit[len(contents) :]:
                waiting.appendleft((rest, self._threads.submit(self._unit, rest)))
            yield from contents

    def _unit(self, names: Sequence[str]) -> list[Contents]:
        """The first files: all, or as many as have a MiB."""
        contents: list[Contents] = []
        size_bytes = 0
        for name in names:
            contents.append(found := self._one(name))
            size_bytes += len(found) if isinstance(found, bytes) else 0
            if size_bytes >= _UNIT_BYTES:
                break
        return contents

    def _one_by_one(self, names: Sequence[str]) -> Iterator[Contents]:
        """Fetch URLs ahead; read each file when it is its turn."""
        waiting: deque[Future[SpooledTemporaryFile[bytes]] | str] = deque()
        for name in names:
            waiting.append(self._threads.submit(self._web.fetch, name) if is_url(name) else name)
            if len(waiting) > _URLS_AHEAD:
                yield self._taken(waiting.popleft())
        while waiting:
            yield self._taken(waiting.popleft())

    def _taken(self, photo: Future[SpooledTemporaryFile[bytes]] | str) -> Contents:
        if isinstance(photo, str):
            return self._one(photo)
        try:
            with photo.result() as fetched:
                return fetched.read()
        except Unreadable as error:
            return error

    def _one(self, name: str) -> Contents:
        try:
            return self._file(name)
        except Unreadable as error:
            return error

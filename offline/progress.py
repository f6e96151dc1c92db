"""Tells the person who waits how far a run is, every few seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType
from typing import TextIO

_EVERY_S, _TERMINAL_EVERY_S = 5.0, 1.0
_WINDOW_S = 60.0  # the rate is that of the last minute


class Progress:
    """Photos done, photos/s and the time that is left, on a line of its own or on the last one.

    Args:
        total: all photos of the source.
        done: those that runs before this one did.
    """

    def __init__(self, out: TextIO, total: int, done: int) -> None:
        self._out, self._total, self._done, self._failed = out, total, done, 0
        self._marks = deque([(time.monotonic(), done)])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._out.isatty():
            self._out.write("\n")

    def add(self, done: int, failed: int, took_s: float) -> None:
        """A part is done.

        Args:
            took_s: seconds that it took; the first one's are no start of Ray.
        """
        if len(self._marks) == 1:
            self._marks[0] = (time.monotonic() - took_s, self._done)
        self._done += done
        self._failed += failed
        self._marks.append((time.monotonic(), self._done))
        while len(self._marks) > 2 and self._marks[-1][0] - self._marks[1][0] > _WINDOW_S:
            self._marks.popleft()

    def line(self) -> str:
        """What it tells now."""
        (since, before), (until, done) = self._marks[0], self._marks[-1]
        share = done / self._total if self._total else 1.0
        text = f"{done:,} of {self._total:,} photos ({share:.0%})"
        if self._failed:
            text += f", {self._failed:,} failed"
        if until == since:
            return f"{text}, starting"
        rate = (done - before) / (until - since)
        left = f", {duration((self._total - done) / rate)} left" if done < self._total else ""
        return f"{text}, {rate:,.0f} photos/s{left}"

    def _tell(self) -> None:
        is_terminal = self._out.isatty()
        while not self._over.wait(_TERMINAL_EVERY_S if is_terminal else _EVERY_S):
            self._out.write(f"\r\033[K{self.line()}" if is_terminal else f"{self.line()}\n")
            self._out.flush()


def duration(seconds: float) -> str:
    """As 45 s, 12 min or 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

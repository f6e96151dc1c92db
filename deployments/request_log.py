"""What is told of each request: its metrics, and a line of JSON beside Serve's own logs.

Never a photo's bytes. Both are told for many requests together, by the clock: one at a time and
through Serve's formatter, a line takes 50 µs, made together 6.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import get_args

from starlette.types import Scope

from deployments.merging import merge_traces
from deployments.messages import Trace
from deployments.metrics import ANSWERS, REQUEST_S, record
from deployments.middleware import ONE_PHOTO
from deployments.settings import Level, RequestLogging

logger = logging.getLogger("ray.serve")

_PERIOD_S, _WAITING_MOST = 0.1, 50_000
_KEY = "mlc.request_log_entry"
_LEVELS = get_args(Level)


class Entry:
    """What is gathered of one request while it is answered.

    Attributes:
        began: on the monotonic clock.
        route: the path if the service knows it, "other" for one that somebody made up.
        status: of the answer; 0 when there was none.
        problem: name of the problem it was answered with; "" for none.
        photos: how many it brought.
        stages_s: stage -> seconds, of what the ingress itself sees.
        traces: of the groups that its photos went with.
        ended: Unix seconds.
    """

    __slots__ = (
        "began", "ended", "photos", "problem", "request_id", "route", "stages_s", "status",
        "took_s", "traces",
    )  # fmt: skip

    def __init__(self, request_id: str) -> None:
        self.began = time.monotonic()
        self.request_id = request_id
        self.route = self.problem = ""
        self.status = self.photos = 0
        self.stages_s = {"read": 0.0}
        self.traces: list[Trace] = []
        self.ended = self.took_s = 0.0


def entry_of(scope: Scope) -> Entry:
    """The entry of the request that an ASGI scope is of; the application put it there."""
    entry: Entry = scope[_KEY]
    return entry


def begin_entry(scope: Scope) -> Entry:
    """Begin the entry of a request, under the id that its answer will carry."""
    ids = (value for name, value in scope["headers"] if name == b"x-request-id")
    entry = scope[_KEY] = Entry(next(ids, b"").decode("latin-1"))
    return entry


class RequestLog:
    """Counts every request, and writes those that the settings ask for.

    Args:
        handler: where lines go.
    """

    def __init__(self, settings: RequestLogging, handler: logging.Handler) -> None:
        self._handler = handler
        self._least = _LEVELS.index(settings.level)
        self._threshold = settings.sample * 2**32
        # Where a disk hangs, the oldest go before memory does.
        self._ended: deque[Entry] = deque(maxlen=_WAITING_MOST)

    def end(self, entry: Entry) -> None:
        """Record a request that was answered; `flush` brings its line to the file."""
        entry.ended, entry.took_s = time.time(), time.monotonic() - entry.began
        labels = {"route": entry.route, "status": str(entry.status)}
        record(REQUEST_S, entry.took_s - entry.stages_s["read"], **labels)
        if entry.route == ONE_PHOTO:
            record(ANSWERS, 1, **labels)
        if self._wanted(entry):
            self._ended.append(entry)

    async def flush(self) -> None:
        """Write the lines of the requests that ended since."""
        lines = _lines([self._ended.popleft() for _ in range(len(self._ended))])
        if lines:
            together = logging.makeLogRecord({"msg": "\n".join(lines)})
            # In a thread: a disk that stalls is to stall no photo.
            await asyncio.to_thread(self._handler.handle, together)

    def _wanted(self, entry: Entry) -> bool:
        level = _level(entry)
        # Chosen by the id, so that all who know it choose alike.
        return level >= self._least and (
            level > 0 or zlib.crc32(entry.request_id.encode()) < self._threshold
        )

    async def keep_flushing(self) -> None:
        """Flush by the clock, until cancelled."""
        while True:
            try:
                await self.flush()
            except Exception:  # the lines that follow are to be written all the same
                logger.exception("requests can't be logged")
            await asyncio.sleep(_PERIOD_S)


def _level(entry: Entry) -> int:
    """Which of _LEVELS."""
    return 0 if entry.status in range(1, 400) else 1 if entry.status in range(400, 500) else 2


def _lines(entries: Sequence[Entry]) -> list[str]:
    """JSON of each; what a group met is written once for all its requests, which took half."""
    behind: dict[int, tuple[str, str]] = {}  # id of a trace, of those that are alive here
    lines = []
    for entry in entries:
        text = (
            f'{{"time":"{datetime.fromtimestamp(entry.ended, UTC).isoformat()}",'
            f'"level":"{_LEVELS[_level(entry)]}","request_id":{json.dumps(entry.request_id)},'
            f'"route":"{entry.route}","status":{entry.status},"took_s":{entry.took_s:.5f}'
        )
        if entry.problem:
            text += f',"problem":"{entry.problem}"'
        if entry.photos:
            trace = entry.traces[0] if len(entry.traces) == 1 else merge_traces(entry.traces)
            if id(trace) not in behind:
                who = f',"batch":{trace.batch},"model":{json.dumps(trace.model)}'
                behind[id(trace)] = _members(trace.stages_s), who
                entry.traces = [trace]  # alive until the last line is made
            stages, who = behind[id(trace)]
            own = _members(entry.stages_s) + ("," if stages else "")
            text += f',"photos":{entry.photos},"stages_s":{{{own}{stages}}}{who}'
        lines.append(text + "}")
    return lines


def _members(stages_s: Mapping[str, float]) -> str:
    return ",".join([f'"{stage}":{spent_s:.5f}' for stage, spent_s in stages_s.items()])


def beside_serves_log() -> logging.Handler:
    """A file next to the one that Serve gave this replica, rotated as that one is.

    Returns:
        `requests_<replica>.log`; standard error where Serve logs to no file.
    """
    for handler in logging.getLogger("ray.serve").handlers:
        file = getattr(handler, "target", handler)  # Serve puts a buffer before its file
        if isinstance(file, RotatingFileHandler):
            path = Path(file.baseFilename)
            name = f"requests_{path.name.removeprefix('replica_')}"
            return RotatingFileHandler(
                path.with_name(name), maxBytes=file.maxBytes, backupCount=file.backupCount
            )
    return logging.StreamHandler(sys.stderr)

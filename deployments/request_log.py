"""One line of JSON a request, in a file beside Serve's own logs; never a photo's bytes.

Lines are gathered and written together, twice a second: through logging, a line at a time, they
would cost more than everything else that is told of a request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import zlib
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, get_args

from starlette.types import Scope

from deployments.merging import merge_traces
from deployments.messages import Trace
from deployments.settings import Level, RequestLogging

_PERIOD_S = 0.5
_KEY = "mlc.request_log_entry"
_LEVELS = get_args(Level)
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class Entry:
    """What is gathered of one request while it is answered.

    Attributes:
        began: on the monotonic clock.
        problem: name of the problem it was answered with; "" for none.
        photos: how many it brought.
        stages_s: stage -> seconds, of what the ingress itself sees.
        traces: of the groups that its photos went with.
    """

    __slots__ = ("began", "photos", "problem", "request_id", "stages_s", "traces")

    def __init__(self, request_id: str) -> None:
        self.began = time.monotonic()
        self.request_id = request_id
        self.problem = ""
        self.photos = 0
        self.stages_s: dict[str, float] = {}
        self.traces: list[Trace] = []


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
    """Writes the entries that the settings ask for.

    Args:
        handler: where lines go.
    """

    def __init__(self, settings: RequestLogging, handler: logging.Handler) -> None:
        self._handler = handler
        self._least = _LEVELS.index(settings.level)
        self._threshold = settings.sample * 2**32
        self._lines: list[str] = []

    def write(self, entry: Entry, route: str, status: int, took_s: float) -> None:
        """Note an answered request; `flush` brings it to the file."""
        level = 0 if status < 400 else 1 if status < 500 else 2
        if level < self._least:
            return
        # Chosen by the id, so that all who know it choose alike.
        if level == 0 and zlib.crc32(entry.request_id.encode()) >= self._threshold:
            return
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(),
            "level": _LEVELS[level],
            "request_id": entry.request_id,
            "route": route,
            "status": status,
            "took_s": round(took_s, 5),
        }
        if entry.problem:
            line["problem"] = entry.problem
        if entry.photos:
            trace = merge_traces(entry.traces)
            stages_s = {**entry.stages_s, **trace.stages_s}
            line["photos"] = entry.photos
            line["stages_s"] = {stage: round(spent_s, 5) for stage, spent_s in stages_s.items()}
            line["batch"] = trace.batch
            line["model"] = trace.model
        self._lines.append(_to_json(line))

    def flush(self) -> None:
        """Bring what was written to the file."""
        if self._lines:
            text, self._lines = "\n".join(self._lines), []
            self._handler.handle(logging.makeLogRecord({"msg": text}))

    async def keep_flushing(self) -> None:
        """Flush by the clock, until cancelled."""
        while True:
            self.flush()
            await asyncio.sleep(_PERIOD_S)


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

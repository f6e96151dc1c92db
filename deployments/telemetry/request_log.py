"""A line of JSON for each request, beside Serve's own logs, and the metrics of requests.

It never logs a photo's bytes. It writes the lines of many requests together, ten times a second: a
line takes 11 µs then, and 50 µs alone through Serve's formatter (docs/LOG.md, 2 cores, 2026-11).
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
from typing import TYPE_CHECKING, get_args

from deployments.messages import Trace
from deployments.settings import Level, RequestLogSettings
from deployments.telemetry.catalogue import REQUEST_DURATION, STAGE_DURATION
from deployments.telemetry.recorder import Recorder

if TYPE_CHECKING:
    from opentelemetry.trace import Span

logger = logging.getLogger("ray.serve")

_PERIOD_S, _MAX_WAITING = 0.1, 50_000
_LEVELS = get_args(Level)


class Entry:
    """What the ingress gathers of one request while it answers it.

    Attributes:
        began: when the request began, on the monotonic clock.
        route: the path if the service knows it, "other" otherwise.
        status: status of the answer; 0 when there was none.
        problem: name of the problem in the answer; "" for none.
        key: name of the client's key; "" for none.
        photos: number of its photos.
        stages_s: stage -> seconds, of the stages in the ingress.
        traces: traces of the groups that its photos travelled with.
        ended: when the request ended, in Unix seconds.
        span: the request's, if it is traced; see `tracing`.
    """

    __slots__ = (
        "began", "duration_s", "ended", "key", "photos", "problem", "request_id", "route",
        "span", "stages_s", "status", "traces",
    )  # fmt: skip

    def __init__(self, request_id: str, route: str) -> None:
        self.began = time.monotonic()
        self.request_id, self.route = request_id, route
        self.problem = self.key = ""
        self.status = self.photos = 0
        self.stages_s = {"read": 0.0}
        self.traces: list[Trace] = []
        self.ended = self.duration_s = 0.0
        self.span: Span | None = None

    def note_read(self) -> None:
        """Note that the body has arrived."""
        self.stages_s["read"] = time.monotonic() - self.began

    def note(self, stage: str, waited_s: float, trace: Trace) -> None:
        """Note where the time of one photo went: in a queue of the ingress, then with its group."""
        self.stages_s[stage] = max(waited_s, self.stages_s.get(stage, 0.0))
        self.traces.append(trace)


class RequestLog:
    """Records every request, and writes a line for those that the settings ask for.

    Args:
        handler: writes the lines.

    Attributes:
        in_progress: requests that have begun and not ended.
    """

    def __init__(
        self, settings: RequestLogSettings, handler: logging.Handler, recorder: Recorder
    ) -> None:
        self._handler, self._recorder = handler, recorder
        self._least = _LEVELS.index(settings.level)
        self._threshold = settings.sample * 2**32
        self._all = settings.level == _LEVELS[0] and settings.sample == 1
        self._longest_read_s = 0.0
        # When a disk hangs, the oldest lines are dropped before memory runs out.
        self._ended: deque[Entry] = deque(maxlen=_MAX_WAITING)
        self.in_progress = 0

    def begin(self, request_id: str, route: str) -> Entry:
        """A new request; `end` it, however it ends."""
        self.in_progress += 1
        return Entry(request_id, route)

    def refused(self, route: str, status: int, duration_s: float) -> None:
        """Record a request that was refused before it was read. It gets no line.

        Under overload there are thousands a second, and a line would cost as much as the refusal.
        """
        self._recorder.record(REQUEST_DURATION, duration_s, route=route, status=str(status))

    def end(self, entry: Entry) -> None:
        """Record a request that ended; `flush` writes its line."""
        self.in_progress -= 1
        if not self._recorder.enabled:
            return
        entry.ended, entry.duration_s = time.time(), time.monotonic() - entry.began
        read_s = entry.stages_s["read"]
        self._longest_read_s = max(self._longest_read_s, read_s)
        self._recorder.record(
            REQUEST_DURATION, entry.duration_s - read_s,
            route=entry.route, status=str(entry.status),
        )  # fmt: skip
        if self._wanted(entry):
            self._ended.append(entry)

    async def flush(self) -> None:
        """Write the lines of the requests that ended since the last call."""
        if self._longest_read_s:
            self._recorder.record(STAGE_DURATION, self._longest_read_s, stage="read")
            self._longest_read_s = 0.0
        lines = _lines([self._ended.popleft() for _ in range(len(self._ended))])
        if lines:
            together = logging.makeLogRecord({"msg": "\n".join(lines)})
            # A thread writes: a disk that stalls must not stall the event loop.
            await asyncio.to_thread(self._handler.handle, together)

    def _wanted(self, entry: Entry) -> bool:
        if self._all:
            return True
        level = _level(entry)
        # The id decides, so every replica that knows it chooses the same requests.
        return level >= self._least and (
            level > 0 or zlib.crc32(entry.request_id.encode()) < self._threshold
        )

    async def keep_flushing(self) -> None:
        """Flush ten times a second, until cancelled."""
        while True:
            try:
                await self.flush()
            except Exception:  # the next lines must be written all the same
                logger.exception("requests can't be logged")
            await asyncio.sleep(_PERIOD_S)


def _level(entry: Entry) -> int:
    """The index of the level in _LEVELS."""
    return 0 if entry.status in range(1, 400) else 1 if entry.status in range(400, 500) else 2


def _lines(entries: Sequence[Entry]) -> list[str]:
    """The JSON of each entry. Writing a group's part once for all its requests halves the time."""
    group_parts: dict[int, tuple[str, str]] = {}  # id of a trace -> its stages, its batch and model
    lines = []
    for entry in entries:
        text = (
            f'{{"time":"{datetime.fromtimestamp(entry.ended, UTC).isoformat()}",'
            f'"level":"{_LEVELS[_level(entry)]}","request_id":{json.dumps(entry.request_id)},'
            f'"route":"{entry.route}","status":{entry.status},"duration_s":{entry.duration_s:.5f}'
        )
        if entry.problem:
            text += f',"problem":"{entry.problem}"'
        if entry.key:
            text += f',"key":"{entry.key}"'
        if entry.photos:
            trace = Trace.merge(entry.traces)
            if id(trace) not in group_parts:
                batch = f',"batch_size":{trace.batch_size},"model":{json.dumps(trace.model)}'
                group_parts[id(trace)] = _members(trace.stages_s), batch
                entry.traces = [trace]  # keeps its id from being reused before the last line
            stages, batch = group_parts[id(trace)]
            own = _members(entry.stages_s) + ("," if stages else "")
            text += f',"photos":{entry.photos},"stages_s":{{{own}{stages}}}{batch}'
        lines.append(text + "}")
    return lines


def _members(stages_s: Mapping[str, float]) -> str:
    return ",".join([f'"{stage}":{spent_s:.5f}' for stage, spent_s in stages_s.items()])


def request_log_file() -> logging.Handler:
    """A file next to the log that Serve gave this replica, rotated like it.

    Returns:
        A handler of `requests_<replica>.log`; of standard error if Serve logs to no file.
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

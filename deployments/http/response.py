"""A response as ASGI has it, and a way to send it that costs less."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.types import Send

from deployments.http.lingering import closes_early, discard_rest

_FIRST_LINES = {int(s): f"HTTP/1.1 {int(s)} {s.phrase}\r\n".encode("latin-1") for s in HTTPStatus}


class RawResponse(NamedTuple):
    """Status, headers with lower-case names, `content-length` among them, and body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    async def send(self, send: Send) -> None:
        """Send it, in one write if that can be.

        If the connection closes after it while the request still arrives, `linger` must follow.
        """
        cycle: Any = getattr(send, "__self__", None)  # uvicorn's object for this request
        if hasattr(cycle, "on_response") and not cycle.flow.write_paused:
            self._write(cycle)
            return
        head = {"type": "http.response.start", "status": self.status, "headers": self.headers}
        await send(head)
        await send({"type": "http.response.body", "body": self.body})

    def _write(self, cycle: Any) -> None:
        """What uvicorn's `send` does for a whole response, without its two writes and its checks.

        Head and body apart would be two system calls and two TCP segments.
        """
        if cycle.disconnected:
            return
        parts = [_FIRST_LINES[self.status]]
        for name, value in (*cycle.default_headers, *self.headers):
            parts += (name, b": ", value, b"\r\n")
            if name == b"connection" and value == b"close":
                cycle.keep_alive = False
        if not cycle.keep_alive and (b"connection", b"close") not in self.headers:
            parts.append(b"connection: close\r\n")
        parts += (b"\r\n", self.body)
        cycle.response_started = True
        cycle.waiting_for_100_continue = False
        cycle.transport.write(b"".join(parts))
        if not closes_early(cycle):
            _complete(cycle)


async def linger(send: Send) -> None:
    """Wait for the rest of a request that was answered before it arrived, then close."""
    cycle: Any = getattr(send, "__self__", None)
    if hasattr(cycle, "on_response") and not cycle.response_complete and not cycle.disconnected:
        await discard_rest(cycle.receive)
        _complete(cycle)


def _complete(cycle: Any) -> None:
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()

"""Middleware that sees a request before Ray Serve does, and its response afterwards.

RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `middlewares`, which Serve calls.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_ID = b"x-request-id"
# With these headers a client could switch off Serve's timeout and its watch for disconnects.
_SERVE_SWITCHES = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
CLASSIFY = "/v1/classify"
# That route has timeouts of its own and watches for disconnects itself (disconnects.py). Serve's
# timeout and watch would take two tasks for each request.
_OFF = [(b"x-request-timeout-seconds", b"0"), (b"x-request-disconnect-disabled", b"?1")]


class RequestHeaders:
    """Removes the headers that steer Serve, and request ids that are unfit for a log.

    If no id is left, Serve creates one. Serve adds the id to the response, so the application must
    not add a second one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            ids = [value for name, value in scope["headers"] if name == _ID]
            sane = len(ids) == 1 and _SANE_ID.fullmatch(ids[0])
            drop = _SERVE_SWITCHES if sane or not ids else (*_SERVE_SWITCHES, _ID)
            headers = [header for header in scope["headers"] if header[0] not in drop]
            scope["headers"] = headers + _OFF if scope["path"] == CLASSIFY else headers
        await self._app(scope, receive, send)


class OneWrite:
    """Makes uvicorn send the head of a response together with its body.

    By default it writes them one after the other: two system calls, and two TCP segments.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # uvicorn's object for this request. Every response to a POST has a body, if an empty one.
        cycle = getattr(send, "__self__", None)
        if scope["type"] != "http" or scope["path"] != CLASSIFY or scope["method"] != "POST":
            cycle = None

        async def send_joined(message: Message) -> None:
            if message["type"] == "http.response.start":
                cycle.transport = _HeadHeld(cycle)  # type: ignore[union-attr]
            await send(message)

        await self._app(scope, receive, send_joined if hasattr(cycle, "transport") else send)


class _HeadHeld:
    """A transport whose first write waits for the second."""

    def __init__(self, cycle: Any) -> None:
        self._cycle, self._transport = cycle, cycle.transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head is None:
            self._head = data
        else:
            self._cycle.transport = self._transport
            self._transport.write(self._head + data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def middlewares() -> list[Middleware]:
    return [Middleware(OneWrite), Middleware(RequestHeaders)]

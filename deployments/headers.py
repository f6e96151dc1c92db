"""What is done to a request's headers before Ray Serve reads them.

Serve calls `middlewares` where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it.
"""

from __future__ import annotations

import re

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
# With these a client could switch off Serve's own timeout and its watch for clients that left.
_SERVE_SWITCHES = ("x-request-timeout-seconds", "x-request-disconnect-disabled")


class RequestHeaders:
    """Takes away the headers that steer Serve, and request ids unfit for a log.

    Serve makes an id where none is left, and answers it to the client: the application must not
    add a second.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            for name in _SERVE_SWITCHES:
                del headers[name]
            ids = headers.getlist("x-request-id")
            if ids and (len(ids) > 1 or not _SANE_ID.fullmatch(ids[0])):
                del headers["x-request-id"]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    return [Middleware(RequestHeaders)]

"""Middleware between uvicorn and Ray Serve.

RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `middlewares`, which Serve calls in every process
that listens for HTTP: the ingress replicas and the proxies.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.http.lingering import Lingering
from deployments.http.not_http import NoWebSockets, explain_unparsable_requests
from deployments.http.photo_route import CLASSIFY, PhotoRoute

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_ID = b"x-request-id"
# With these headers a client could switch off Serve's timeout and its watch for disconnects.
_SERVE_SWITCHES = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")

_ingresses: dict[asyncio.AbstractEventLoop, PhotoRoute] = {}


def take_photos(route: PhotoRoute, loop: asyncio.AbstractEventLoop) -> None:
    """Have photos that reach an event loop of this process answered by a route that runs in it."""
    _ingresses[loop] = route


class ShortCut:
    """Brings photos from uvicorn straight to the ingress of this process.

    Serve's wrapper around a request costs as much as the ingress itself (docs/LOG.md). What it
    does, the ingress does for photos: request ids, timeouts, disconnects, metrics, and counting
    the requests in progress for autoscaling. Serve still drains them, since it waits for uvicorn's
    open requests when it stops a replica.

    A process without an ingress, such as the fallback proxy, passes photos on like all others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._route: PhotoRoute | None = None
        self._process, self._numbers = secrets.token_hex(8).encode(), itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == CLASSIFY and scope["method"] == "POST":
            if self._route is None:
                self._route = _ingresses.get(asyncio.get_running_loop())
            if self._route is not None:
                request_id = _sane_id(scope) or b"%s-%x" % (self._process, next(self._numbers))
                await self._route.answer_directly(request_id, scope, receive, send)
                return
        await self._app(scope, receive, send)


class RequestHeaders:
    """Removes the headers that steer Serve, and request ids that are unfit for a log.

    If no id is left, Serve creates one. Serve adds the id to the response, so the application must
    not add a second one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            drop = _SERVE_SWITCHES if _sane_id(scope) else (*_SERVE_SWITCHES, _ID)
            scope["headers"] = [each for each in scope["headers"] if each[0] not in drop]
        await self._app(scope, receive, send)


def _sane_id(scope: Scope) -> bytes | None:
    """The request id that the client sent, if it sent one, and one that is fit for a log."""
    ids = [value for name, value in scope["headers"] if name == _ID]
    return ids[0] if len(ids) == 1 and is_sane_id(ids[0]) else None


def is_sane_id(request_id: bytes) -> bool:
    """Whether a request id is fit for a log."""
    return bool(_SANE_ID.fullmatch(request_id))


def middlewares() -> list[Middleware]:
    """In the order in which Serve applies them: the last sees a request first."""
    explain_unparsable_requests()
    ours = (RequestHeaders, NoWebSockets, Lingering, ShortCut)
    return [Middleware(each) for each in ours]

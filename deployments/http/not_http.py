"""Refuses what is no HTTP request, with problem details: requests that uvicorn can't parse, and
WebSockets. Metrics and the request log do not see them.
"""

from __future__ import annotations

import secrets

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from deployments.errors import MalformedRequest
from deployments.http.problems import MEDIA_TYPE, STATUSES, describe

_UNPARSABLE = (
    "the server can't read this as HTTP: its method is unknown, or a header has a character that "
    "is not allowed there"
)
_WEBSOCKET = "this service has no WebSockets; send the request without the header Upgrade"
_STATUS, _NAME = STATUSES[MalformedRequest]


def explain_unparsable_requests() -> None:
    """Have uvicorn answer what it can't parse with problem details, in this process."""
    HttpToolsProtocol.send_400_response = _refuse  # type: ignore[assignment, method-assign]


def _refuse(protocol: HttpToolsProtocol, _: str) -> None:
    headers, body = _problem(_UNPARSABLE)
    lines = [name + b": " + value + b"\r\n" for name, value in headers]
    protocol.transport.write(b"".join([STATUS_LINE[_STATUS], *lines, b"\r\n", body]))
    protocol.transport.close()


class NoWebSockets:
    """Answers the handshake of a WebSocket."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        headers, body = _problem(_WEBSOCKET)
        await receive()
        head = {"type": "websocket.http.response.start", "status": _STATUS, "headers": headers}
        await send(head)
        await send({"type": "websocket.http.response.body", "body": body})


def _problem(detail: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body."""
    request_id = secrets.token_hex(16)
    body = msgspec.json.encode(describe(_STATUS, _NAME, detail, request_id))
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
    ]
    return headers, body

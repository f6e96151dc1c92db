"""Has uvicorn refuse what is no HTTP with problem details. It does so before any application."""

from __future__ import annotations

import secrets

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from deployments.errors import MalformedRequest
from deployments.http.problems import MEDIA_TYPE, STATUSES, describe

_DETAIL = (
    "the request is no HTTP that the server can read: its method is unknown, or a header has a "
    "character that is not allowed there"
)


def explain_unparsable_requests() -> None:
    """Replace uvicorn's plain text in this process. Metrics and the request log miss these."""
    HttpToolsProtocol.send_400_response = _refuse  # type: ignore[assignment, method-assign]


def _refuse(protocol: HttpToolsProtocol, _: str) -> None:
    request_id = secrets.token_hex(16)
    status, name = STATUSES[MalformedRequest]
    body = msgspec.json.encode(describe(status, name, _DETAIL, request_id))
    head = (
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
    )
    protocol.transport.write(STATUS_LINE[status] + head.encode() + body)
    protocol.transport.close()

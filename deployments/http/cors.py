"""Lets pages of other origins call the service (CORS), by Starlette's middleware."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Scope

_MAX_AGE_S = 600


class Cors(CORSMiddleware):
    """Answers preflights, and adds the headers of CORS to responses.

    Keys travel in a header that a page sets itself, so browsers need not send cookies along.

    Args:
        origins: those that may call, as `https://shop.example`; `*` for all.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "X-Request-ID"),
            expose_headers=("Retry-After", "WWW-Authenticate", "X-Request-ID"),
            max_age=_MAX_AGE_S,
        )

    async def add_to(self, headers: list[tuple[bytes, bytes]], scope: Scope) -> None:
        """Add them to the headers of a response that does not pass through the middleware.

        Args:
            scope: of the request.
        """
        message: Message = {"type": "http.response.start", "headers": headers}
        await self.send(message, _nowhere, Headers(scope=scope))
        headers[:] = message["headers"]


async def _nowhere(_: Message) -> None:
    pass

"""Lets clients read answers that leave before their requests have arrived, such as a 413.

A server that closes a connection while data still arrives resets it, and the client may lose the
answer (RFC 9112, section 9.6). So the connection stays open for a while, and what arrives is
discarded. Where the connection is kept, uvicorn discards the rest by itself.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TIMEOUT_S = 30.0
_SILENCE_S = 5.0  # a client that sends nothing for so long has stopped sending
_LIMIT_BYTES = 2**30


def closes_early(cycle: Any) -> bool:
    """Whether the answer that uvicorn has begun closes a connection that still carries a request.

    Args:
        cycle: uvicorn's object for the request.
    """
    return not (cycle.keep_alive or cycle.disconnected) and cycle.more_body


async def discard_rest(receive: Receive) -> None:
    """Read what is left of a request: for 30 s, or until 5 s of silence, or 1 GiB, at most."""
    size_bytes, more = 0, True
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            while more and size_bytes < _LIMIT_BYTES:
                async with asyncio.timeout(_SILENCE_S):
                    message = await receive()
                size_bytes += len(message.get("body", b""))
                more = message.get("more_body", False)  # not in a disconnect
    except TimeoutError:
        return


class Lingering:
    """Has requests that go through Serve linger. `RawResponse` does so for photos."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if hasattr(getattr(send, "__self__", None), "keep_alive"):
            receive, send = _lingering(receive, send)
        await self._app(scope, receive, send)


def _lingering(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """The same two callables, where the end of an early answer waits for the request's."""
    cycle: Any = getattr(send, "__self__")  # noqa: B009  (ASGI knows it as a callable)
    answered = asyncio.Event()

    async def receive_until_answered() -> Message:
        if answered.is_set():  # Serve would keep in memory what is discarded here
            await asyncio.Event().wait()
        return await receive()

    async def send_and_linger(message: Message) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not (last and closes_early(cycle)):
            await send(message)
            return
        answered.set()
        await send({**message, "more_body": True})
        await discard_rest(receive)
        await send({"type": "http.response.body", "body": b""})

    return receive_until_answered, send_and_linger

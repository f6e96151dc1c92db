"""Watches for clients that leave while their photo waits, so that no group takes it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import Receive

from deployments.errors import ClientLeft

logger = logging.getLogger("ray.serve")

_PERIOD_S = 0.1


class Disconnects:
    """Asks the server, ten times a second, about every request that has an unfinished future.

    Serve does not see the photos that take the short cut. Its own watch would be a task for each
    request (docs/LOG.md).
    """

    def __init__(self) -> None:
        self._watched: dict[asyncio.Future[Any], Receive] = {}

    @contextmanager
    def watching(self, receive: Receive, future: asyncio.Future[Any]) -> Iterator[None]:
        """Have the future raise ClientLeft if the client leaves within the block.

        Args:
            receive: the ASGI `receive` of a request whose body has been read.
        """
        self._watched[future] = receive
        try:
            yield
        finally:
            del self._watched[future]

    async def watch(self) -> None:
        """Check ten times a second, until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(_PERIOD_S)

    def check(self) -> None:
        """Ask about every watched request once."""
        for future, receive in list(self._watched.items()):
            if not future.done() and _has_left(receive):
                future.set_exception(ClientLeft("the client left while its photo waited"))


def _has_left(receive: Receive) -> bool:
    """Whether the next message of a request is its disconnect. It does not wait for a message.

    uvicorn stops reading after a body over 64 KiB. Asking makes it read on, and only then does it
    notice that the client left.
    """
    message = receive()
    try:
        message.send(None)  # type: ignore[attr-defined]  # an Awaitable to ASGI, a coroutine to uvicorn
    except StopIteration as answer:
        return bool(answer.value["type"] == "http.disconnect")
    except Exception:  # a connection that can't be read has no client
        logger.exception("the server can't say whether a client is connected")
        return True
    message.close()  # type: ignore[attr-defined]
    return False

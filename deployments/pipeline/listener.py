"""The callee's side of the data plane: a replica takes groups from its callers' connections."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import ray

from deployments.messages import GroupAnswers
from deployments.pipeline.connection import GOODBYE, SECRET_BYTES, Connection
from deployments.pipeline.wire import Decode, encode_answers, failed
from deployments.settings import LISTEN_HOST

logger = logging.getLogger("ray.serve")

_FINISHED_WITHIN_S = 15.0  # within Serve's graceful_shutdown_timeout_s, 20 s


class Listener:
    """Listens on a port of its own, for callers that know a secret of its own.

    Address and secret travel to the callers in the replica's metadata, which Serve sends over
    Ray's authenticated channel.

    Args:
        handle: answers a group.
        decode: of the groups.
        size: how many photos a group has.
    """

    def __init__(
        self,
        handle: Callable[[Any], Awaitable[GroupAnswers]],
        decode: Decode,
        size: Callable[[Any], int],
    ) -> None:
        self._handle, self._decode, self._size = handle, decode, size
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._connections: set[Connection] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.groups_held = 0

    @property
    def is_started(self) -> bool:
        return self._server is not None

    async def start(self) -> dict[str, Any]:
        """Begin to listen.

        Returns:
            The replica's metadata: where callers find it, and what they must know.
        """
        host = os.environ.get(LISTEN_HOST) or ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, host, 0)
        port = self._server.sockets[0].getsockname()[1]
        return {"host": host, "port": port, "secret": self._secret.hex()}

    def check(self) -> None:
        """Raise RuntimeError if callers can't connect any more; part of the health check."""
        if self._server is not None and not self._server.is_serving():
            raise RuntimeError("the replica no longer listens for groups")

    async def close(self) -> None:
        """Tell callers to send nothing new, finish what is here, and close."""
        for connection in self._connections:
            if not connection.is_closing:
                connection.send(GOODBYE)
        if self._running:
            await asyncio.wait(self._running, timeout=_FINISHED_WITHIN_S)
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close()

    def _accept(self) -> Connection:
        connection = Connection(
            self._secret, self._on_frame, self._connections.discard, listens=True
        )
        self._connections.add(connection)
        return connection

    def _on_frame(
        self, connection: Connection, call: int, head: memoryview, payload: memoryview
    ) -> None:
        group = self._decode(head, payload)
        task = asyncio.get_running_loop().create_task(
            self._answer(connection, call, group), context=contextvars.Context()
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard, context=contextvars.Context())

    async def _answer(self, connection: Connection, call: int, group: Any) -> None:
        self.groups_held += 1
        try:
            reply = await self._handle(group)
        except Exception as error:
            logger.exception("a group of %d photos failed", self._size(group))
            reply = failed(error, self._size(group))
        finally:
            self.groups_held -= 1
        if not connection.is_closing:  # else the caller is gone, and nobody waits for it
            connection.send(call, *encode_answers(reply))

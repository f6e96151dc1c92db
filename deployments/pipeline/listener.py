"""The callee's side of the data plane: a replica takes groups from its callers' connections."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import ray

from deployments.errors import DeadlinePassed, ServiceError
from deployments.messages import GroupAnswers
from deployments.pipeline.connection import GOODBYE, SECRET_BYTES, Connection
from deployments.pipeline.wire import PROTOCOL, Decode, Parts, encode_answers, failed
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

    @property
    def is_listening(self) -> bool:
        return self._server is not None and self._server.is_serving()

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
        """Raise RuntimeError if its socket is closed; part of the health check."""
        if self._server is not None and not self.is_listening:
            raise RuntimeError("the replica no longer listens for groups")

    async def close(self) -> None:
        """Tell callers to send nothing new, finish what came, for 15 s at most, and close."""
        for connection in self._connections:
            if connection.greeted.is_set() and not connection.is_closing:
                connection.send(GOODBYE)
        loop = asyncio.get_running_loop()
        end = loop.time() + _FINISHED_WITHIN_S
        while self._running and (left_s := end - loop.time()) > 0:
            await asyncio.wait(self._running, timeout=left_s)
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
        if getattr(group, "careful", False):
            group = group._replace(begins=partial(_begins, connection, call))
        task = asyncio.get_running_loop().create_task(
            self._answer(connection, call, group), context=contextvars.Context()
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard, context=contextvars.Context())

    async def answer_frame(
        self, protocol: bytes, head: bytes, payload: bytes
    ) -> tuple[bytes, bytes] | None:
        """Answer a group that came by Serve's handle, in the same form as on a connection.

        Returns:
            Head and payload of the answers; None if the caller speaks another protocol. While a
            roll-out replaces replicas, callers and callees may be of different versions.
        """
        if protocol != PROTOCOL:
            return None
        head, parts = await self._reply(self._decode(head, memoryview(payload)))
        return head, b"".join(parts)

    async def _answer(self, connection: Connection, call: int, group: Any) -> None:
        reply = await self._reply(group)
        if connection.is_closing:  # the caller is gone
            return
        try:
            connection.send(call, *reply)
        except ValueError as error:
            connection.send(call, *encode_answers(failed(error, self._size(group))))

    async def _reply(self, group: Any) -> Parts:
        """The answers, always: errors when the handler fails or the deadline passes."""
        photos = self._size(group)
        try:
            async with asyncio.timeout(group.deadline.left_s()):
                return encode_answers(await self._handle(group))
        except TimeoutError:
            late = DeadlinePassed("the deadline of the group passed; try again")
            return encode_answers(failed(late, photos))
        except Exception as error:
            if not isinstance(error, ServiceError):
                logger.exception("a group of %d photos failed", photos)
            return encode_answers(failed(error, photos))


async def _begins(connection: Connection, call: int, number: int | None) -> None:
    if not connection.is_closing:
        connection.send(call, payload=[] if number is None else [number.to_bytes(4)])
        await connection.flushed()

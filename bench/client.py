"""An HTTP client that keeps thousands of requests in flight, and notes what becomes of each.

It reads no more of an answer than that needs. It does not retry, and it decodes no body.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from typing import cast

import numpy as np

# In place of a status: no answer so far; a connection that was refused, reset or closed.
UNANSWERED, LOST = 0, 1
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")
_PROBLEM = b"\r\ncontent-type: application/problem+json"


class Outcomes:
    """What became of requests, by their number.

    Attributes:
        called_s: `time.monotonic()` when it was to be sent.
        waited: whether it waited, since too many connections were open.
        left_s: seconds as above when it went to a connection, open or new.
        ended_s: seconds as above when its answer was complete, or its connection lost.
        status: of HTTP, UNANSWERED or LOST.
        proper: whether an answer is a problem+json that says when to retry.
    """

    def __init__(self, count: int) -> None:
        self.called_s = np.zeros(count)
        self.waited = np.zeros(count, bool)
        self.left_s = np.zeros(count)
        self.ended_s = np.zeros(count)
        self.status = np.full(count, UNANSWERED)
        self.proper = np.zeros(count, bool)


class Client:
    """A pool of kept-alive connections that opens a new one when all are busy.

    It prefers the connection that was used last. When `most` are busy, requests wait in order.

    Args:
        count: number of requests that it will send.
    """

    def __init__(self, host: str, port: int, count: int, most: int = 3000) -> None:
        self.outcomes = Outcomes(count)
        self.finished = asyncio.Event()
        self._host, self._port, self._most = host, port, most
        self._left = count
        if not count:
            self.finished.set()
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._count = 0  # of connections, with those that are being opened
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[int, bytes]] = deque()

    def send(self, number: int, request: bytes) -> None:
        """Send a request now, or as soon as a connection is free."""
        self.outcomes.called_s[number] = time.monotonic()
        self._send(number, request)

    def close(self) -> None:
        """Drop all connections. Requests without an answer stay UNANSWERED."""
        for opening in self._opening:
            opening.cancel()
        for connection in self._open:
            connection.abandon()

    def _send(self, number: int, request: bytes) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection in self._open:
                self._leaves(number)
                connection.send(number, request)
                return
        if self._count < self._most:
            self._count += 1
            self._leaves(number)
            opening = asyncio.get_running_loop().create_task(self._connect(number, request))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)
        else:
            self.outcomes.waited[number] = True
            self._waiting.append((number, request))

    async def _connect(self, number: int, request: bytes) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), self._host, self._port
            )
        except OSError:
            self._count -= 1
            self.ended(number, LOST)
            self._serve_waiting()
        else:
            connection.send(number, request)

    def opened(self, connection: _Connection) -> None:
        self._open.add(connection)

    def free(self, connection: _Connection) -> None:
        self._idle.append(connection)
        self._serve_waiting()

    def lost(self, connection: _Connection, number: int | None) -> None:
        self._open.discard(connection)
        self._count -= 1
        if number is not None:
            self.ended(number, LOST)
        self._serve_waiting()

    def ended(self, number: int, status: int, *, proper: bool = False) -> None:
        self.outcomes.ended_s[number] = time.monotonic()
        self.outcomes.status[number] = status
        self.outcomes.proper[number] = proper
        self._left -= 1
        if not self._left:
            self.finished.set()

    def _leaves(self, number: int) -> None:
        self.outcomes.left_s[number] = time.monotonic()

    def _serve_waiting(self) -> None:
        if self._waiting:
            self._send(*self._waiting.popleft())


class _Connection(asyncio.Protocol):
    """A connection that carries one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, client: Client) -> None:
        self._client = client
        self._number: int | None = None  # of the request that it carries
        self._read = b""

    def send(self, number: int, request: bytes) -> None:
        self._number, self._read = number, b""
        self._transport.write(request)

    def abandon(self) -> None:
        self._number = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._client.opened(self)

    def data_received(self, data: bytes) -> None:
        number = self._number
        if number is None:  # an answer to no request
            self._transport.abort()
            return
        self._read += data
        end = self._read.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._read[: end + 2].lower()
        length = _LENGTH.search(head)
        if length and len(self._read) < end + 4 + int(length[1]):
            return
        self._number = None
        proper = _PROBLEM in head and b"\r\nretry-after:" in head
        self._client.ended(number, int(head[9:12]), proper=proper)
        # Without a length, an answer may go on, so the connection takes no other request.
        if length is None or b"\r\nconnection: close" in head:
            self._transport.abort()
        else:
            self._client.free(self)

    def connection_lost(self, _error: Exception | None) -> None:
        number, self._number = self._number, None
        self._client.lost(self, number)

"""One TCP connection between two replicas: authenticated first, then frames both ways."""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Callable, Iterable
from typing import Any

from deployments.pipeline.wire import (
    HEADER,
    MAX_HEAD_BYTES,
    MAX_PAYLOAD_BYTES,
    PROTOCOL,
    Buffer,
)

SECRET_BYTES = 32
GOODBYE = 2**64 - 1  # in place of a call's number: the peer takes nothing new
_GREETED_WITHIN_S = 5.0
_MAX_UNSENT_BYTES = 2**24
# The kernel's heartbeats find a peer whose machine is gone within this time. It also cuts off a
# peer that has read nothing for so long while its buffers are full.
_SILENT_AT_MOST_S = 6

OnFrame = Callable[["Connection", int, memoryview, memoryview], None]


class Connection(asyncio.BufferedProtocol):
    """Reads frames without copying them: each gets a buffer of its own size.

    Args:
        secret: what the other side must know. A listener checks it before it parses a byte.
        on_frame: called with the number of the call, the head and the payload. A ValueError that
            it raises closes the connection.
        on_lost: called once, when the connection is gone.
        listens: whether this side checks the secret, or sends it.

    Attributes:
        greeted: set when the other side has answered for itself, or when the connection is gone.
    """

    def __init__(
        self,
        secret: bytes,
        on_frame: OnFrame,
        on_lost: Callable[[Connection], None],
        *,
        listens: bool,
    ) -> None:
        self._secret, self._on_frame, self._on_lost = secret, on_frame, on_lost
        self._listens = listens
        self._expected = PROTOCOL + secret if listens else PROTOCOL
        self._buffer = memoryview(bytearray(len(self._expected)))
        self._filled = 0
        self._header: tuple[int, int, int] | None = None
        self._transport: Any = None
        self.greeted = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_MAX_UNSENT_BYTES)
        _keep_alive(transport.get_extra_info("socket"))
        if self._listens:
            loop = asyncio.get_running_loop()
            loop.call_later(_GREETED_WITHIN_S, self._close_unless_greeted)
        else:
            transport.write(PROTOCOL + self._secret)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._writable.set()
        self.greeted.set()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    @property
    def is_closing(self) -> bool:
        return bool(self._transport is None or self._transport.is_closing())

    @property
    def is_writable(self) -> bool:
        """Whether the peer has read enough of what was sent before."""
        return self._writable.is_set()

    def close(self) -> None:
        """Close it once what was written has been sent."""
        if self._transport is not None:
            self._transport.close()

    async def writable(self) -> None:
        """Wait until it is writable, or gone."""
        await self._writable.wait()

    async def flushed(self) -> None:
        """Wait until the kernel has all that was sent; uvloop only queues a write."""
        while not self.is_closing and self._transport.get_write_buffer_size():  # noqa: ASYNC110
            await asyncio.sleep(0)

    def send(self, call: int, head: bytes = b"", payload: Iterable[Buffer] = ()) -> None:
        """Send a frame.

        Raises:
            ConnectionError: the connection is gone.
            ValueError: the frame is over the limit; the connection stays.
        """
        if self.is_closing:
            raise ConnectionError("the connection to the replica is gone")
        parts = list(payload)
        size_bytes = sum(map(len, parts))
        if len(head) > MAX_HEAD_BYTES or size_bytes > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a frame of {len(head)} + {size_bytes} bytes is over the limit")
        self._transport.writelines([HEADER.pack(call, len(head), size_bytes), head, *parts])

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == len(self._buffer):
            try:
                self._take(self._buffer)
            except ValueError:
                self._transport.abort()

    def _take(self, data: memoryview) -> None:
        """Take a buffer that is full: a greeting, a header, or the rest of a frame."""
        if not self.greeted.is_set():
            if not hmac.compare_digest(bytes(data), self._expected):
                raise ValueError("another protocol or secret")
            if self._listens:
                self._transport.write(PROTOCOL)
            self.greeted.set()
            self._expect(HEADER.size)
        elif self._header is None:
            call, head_bytes, payload_bytes = HEADER.unpack(data)
            if head_bytes > MAX_HEAD_BYTES or payload_bytes > MAX_PAYLOAD_BYTES:
                raise ValueError("a frame over the limit")
            self._header = call, head_bytes, payload_bytes
            if head_bytes + payload_bytes:
                self._expect(head_bytes + payload_bytes)
            else:
                self._take(memoryview(b""))
        else:
            call, head_bytes, _ = self._header
            self._header = None
            self._expect(HEADER.size)
            self._on_frame(self, call, data[:head_bytes], data[head_bytes:])

    def _expect(self, size_bytes: int) -> None:
        self._buffer, self._filled = memoryview(bytearray(size_bytes)), 0

    def _close_unless_greeted(self) -> None:
        if not self.greeted.is_set():
            self._transport.abort()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_AT_MOST_S // 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _SILENT_AT_MOST_S // 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _SILENT_AT_MOST_S)

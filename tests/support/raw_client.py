"""A client that can hang up before its answer."""

from __future__ import annotations

import socket
import struct

from contract import BATCH, CLASSIFY

_BOUNDARY = "boundary"


class RawClient:
    """Sends a photo, raw or in a batch request of one, and does not wait for the answer."""

    def __init__(
        self, url: str, photo: bytes, path: str = CLASSIFY, request_id: str = "raw"
    ) -> None:
        host, port = url.removeprefix("http://").split(":")
        kind, body = "image/jpeg", photo
        if path == BATCH:
            kind = f"multipart/form-data; boundary={_BOUNDARY}"
            disposition = b'Content-Disposition: form-data; name="images"; filename="p.jpg"'
            body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (
                _BOUNDARY.encode(), disposition, photo, _BOUNDARY.encode(),
            )  # fmt: skip
        head = (
            f"POST {path} HTTP/1.1\r\nHost: mlc\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: {kind}\r\nX-Request-ID: {request_id}\r\n\r\n"
        )
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._socket.sendall(head.encode() + body)

    def hang_up(self) -> None:
        """Close with a reset, which no server mistakes for a client that still reads."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def status(self) -> int:
        with self._socket, self._socket.makefile("rb") as file:
            return int(file.readline().split()[1])

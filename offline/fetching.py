"""Fetches photos from the web: patient with a busy server, and done in time with a slow one."""

from __future__ import annotations

import http.client
import io
import time
from contextlib import ExitStack
from socket import socket
from tempfile import SpooledTemporaryFile
from typing import Any
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from mlc_core.sources.files import MAX_PHOTO_BYTES, Unreadable

_ATTEMPTS, _WAIT_S, _FETCH_S = 3, 0.5, 30.0
_CONNECT_S, _SILENCE_S = 5.0, 10.0
_REDIRECTS = 5
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_PIECE = 1 << 16
_IN_MEMORY_BYTES = 2**20


class Web:
    """Fetches photos in several threads.

    Args:
        threads: how many call `fetch`.
    """

    def __init__(self, threads: int) -> None:
        self._pools = urllib3.PoolManager(maxsize=threads, headers={"User-Agent": "mlc-catalog"})
        self._pools.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def fetch(self, url: str) -> SpooledTemporaryFile[bytes]:
        """The photo at a URL, to be read from its start. Only a small one is in memory.

        Raises:
            Unreadable: it can't be fetched, or is too large.
        """
        why = ""
        until = time.monotonic() + _FETCH_S
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_WAIT_S * 2 ** (attempt - 1))
            try:
                response = self._response(url, until)
                try:
                    if response.status == 200:
                        return _body(response)
                    why = f"HTTP status {response.status}"
                    if response.status not in _AGAIN:
                        break
                finally:
                    response.close()
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                why = str(error)
            if time.monotonic() >= until:
                why = f"not complete within {_FETCH_S:g} s"
                break
        raise _unfetched(why)

    def _response(self, url: str, until: float) -> urllib3.BaseHTTPResponse:
        """The response after all redirects. Their bodies are not read, however long they are."""
        for _ in range(_REDIRECTS + 1):
            left_s = max(until - time.monotonic(), 1e-3)
            response = self._pools.request(
                "GET", url, preload_content=False, redirect=False, retries=False,
                timeout=urllib3.Timeout(total=left_s, connect=_CONNECT_S),
            )  # fmt: skip
            location = response.get_redirect_location()
            if not location:
                return response
            response.close()
            url = urljoin(url, location)
        raise _unfetched(f"over {_REDIRECTS} redirects")


class _Received(io.RawIOBase):
    """What a socket receives, until its timeout has passed once.

    A socket's own timeout begins anew with each byte, and a server may send one every few seconds.
    """

    def __init__(self, sock: socket, received: io.RawIOBase) -> None:
        self._sock, self._received = sock, received
        self._until = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the response is not complete in time")
        self._sock.settimeout(min(left_s, _SILENCE_S))
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response whose headers and body together come within the timeout of its socket."""

    def __init__(self, sock: socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Received(sock, self.fp.detach()))


class _Connection(HTTPConnection):
    response_class = _Response


class _TlsConnection(HTTPSConnection):
    response_class = _Response


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def _body(response: urllib3.BaseHTTPResponse) -> SpooledTemporaryFile[bytes]:
    with ExitStack() as stack:
        body = stack.enter_context(SpooledTemporaryFile(_IN_MEMORY_BYTES))
        for piece in response.stream(_PIECE):
            body.write(piece)
            if body.tell() > MAX_PHOTO_BYTES:
                why = f"it has over {MAX_PHOTO_BYTES} bytes"
                raise Unreadable("too large a photo", why, "shrink it")
        body.seek(0)
        stack.pop_all()
    return body


def _unfetched(why: str) -> Unreadable:
    return Unreadable("a photo that can't be fetched", why, "try again later")

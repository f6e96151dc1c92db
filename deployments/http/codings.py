"""Content codings of HTTP: reads compressed bodies within a limit, and compresses responses."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable

from deployments.errors import MalformedRequest, UnsupportedMediaType, quote
from deployments.http.bodies import too_large

_WINDOWS = {"gzip": 31, "deflate": 15}  # zlib's wbits; "deflate" is zlib's format (RFC 9110)
_PLAIN = ("", "identity")
_FASTEST = 1

Headers = Iterable[tuple[bytes, bytes]]


async def decoded(body: bytes, headers: Headers, limit_bytes: int) -> bytes:
    """The body of a request without its content coding.

    Raises:
        UnsupportedMediaType: the coding is unknown.
        RequestTooLarge: the plain body is over the limit; no more than that is ever in memory.
        MalformedRequest: the body is not in its coding, or it was cut off.
    """
    coding = _header(headers, b"content-encoding").strip().lower().removeprefix("x-")
    if coding in _PLAIN:
        return body
    if coding not in _WINDOWS:
        raise UnsupportedMediaType(
            f"the Content-Encoding is {quote(coding)}; send {' or '.join(_WINDOWS)}, or none"
        )
    # In a thread: zlib lets go of the interpreter.
    return await asyncio.to_thread(_inflated, body, coding, limit_bytes)


async def encoded(body: bytes, headers: Headers) -> tuple[bytes, str]:
    """The body of a response in the coding that the client prefers, and the coding; "" for none."""
    coding = _preferred(_header(headers, b"accept-encoding"))
    if not coding:
        return body, ""
    return await asyncio.to_thread(_deflated, body, coding), coding


def _inflated(body: bytes, coding: str, limit_bytes: int) -> bytes:
    inflating = zlib.decompressobj(_WINDOWS[coding])
    try:
        plain = inflating.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise MalformedRequest(f"the body is not {coding}, as it declares: {error}") from error
    if len(plain) > limit_bytes:
        raise too_large(limit_bytes)
    if not inflating.eof or inflating.unused_data:
        raise MalformedRequest(f"the body is not one whole {coding} stream")
    return plain


def _deflated(body: bytes, coding: str) -> bytes:
    deflating = zlib.compressobj(_FASTEST, wbits=_WINDOWS[coding])
    return deflating.compress(body) + deflating.flush()


def _preferred(accept: str) -> str:
    """The coding with the highest weight in an Accept-Encoding; the first of equal ones."""
    weights = {"": 0.0}
    for part in accept.lower().split(","):
        name, _, parameter = part.partition(";")
        if name.strip() in _WINDOWS:
            weights[name.strip()] = _weight(parameter.strip())
    return max(weights, key=lambda coding: weights[coding])


def _weight(parameter: str) -> float:
    try:
        return float(parameter.removeprefix("q=")) if parameter else 1.0
    except ValueError:
        return 0.0


def _header(headers: Headers, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in headers if key == name)

"""Requests that no honest client sends: what `make fuzz` draws from."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from samples.photos import every_format

PHOTOS = dict(every_format())
CLASSIFY, BATCH = b"/v1/classify", b"/v1/classify/batch"
_BOUNDARY = b"edge"
_LENGTHS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Attack(NamedTuple):
    """Bytes for one connection.

    Attributes:
        sent: what is sent; the rest of a request may be missing.
        then: "read" the answer; "hang up" by a reset; "half-close", which still reads.
        whole: whether it is a whole request, which must be answered.
    """

    sent: bytes
    then: str
    whole: bool


def mutated(photo: bytes) -> SearchStrategy[bytes]:
    """A photo that was damaged, cut, spliced or forged."""
    at = st.integers(0, len(photo) - 1)
    return st.one_of(
        st.builds(lambda n: photo[:n], at),
        st.lists(st.tuples(at, st.integers(0, 7)), min_size=1, max_size=16).map(
            lambda flips: _flip(photo, flips)
        ),
        st.lists(st.tuples(at, st.binary(max_size=8)), min_size=1, max_size=4).map(
            lambda writes: _overwrite(photo, writes)
        ),
        st.builds(lambda n, length, form: _overwrite(photo, [(n, struct.pack(form, length))]),
                  st.integers(0, min(len(photo) - 1, 256)), st.sampled_from(_LENGTHS),
                  st.sampled_from((">I", "<I"))),
        st.builds(lambda n, m, other: photo[:n] + other[m:], at, st.integers(0, 512),
                  st.sampled_from(list(PHOTOS.values()))),
        st.builds(lambda n, m, times: photo[:n] + photo[n:m] * times, at, at, st.integers(2, 50)),
        st.builds(lambda extra: photo + extra, st.binary(max_size=64)),
    )  # fmt: skip


def bombs() -> SearchStrategy[bytes]:
    """Few bytes that claim or hold many pixels."""
    side = st.integers(1, 2**31 - 1) | st.sampled_from((1, 2**15, 2**16 - 1, 2**31 - 1))
    png, bmp, gif = PHOTOS["png"], PHOTOS["bmp"], PHOTOS["gif"]
    return st.one_of(
        st.builds(lambda w, h: png[:16] + struct.pack(">II", w, h) + png[24:], side, side),
        st.builds(lambda w, h: bmp[:18] + struct.pack("<II", w, h) + bmp[26:], side, side),
        st.builds(lambda w, h: gif[:6] + struct.pack("<HH", w % 2**16, h % 2**16) + gif[10:],
                  side, side),
    )  # fmt: skip


photos: SearchStrategy[bytes] = st.one_of(
    st.sampled_from(list(PHOTOS.values())).flatmap(mutated),
    st.sampled_from(list(PHOTOS.values())).flatmap(mutated),
    bombs(),
    st.binary(max_size=200),
)
parameters = st.integers(0, 9).flatmap(
    lambda n: st.just(b"") if n else st.builds(lambda key, value: b"?%b=%b" % (key, value),
              st.sampled_from((b"top_k", b"min_confidence", b"x")),
              st.text("0123456789.-einfa%+&=", max_size=8).map(str.encode)),
)  # fmt: skip


@st.composite
def forms(draw: DrawFn) -> bytes:
    """Multipart bodies, right and broken."""
    parts = draw(st.lists(photos, max_size=4))
    field = draw(st.sampled_from((b"image", b"images", b"", b"im\xffage")))
    body = b""
    for part in parts:
        disposition = draw(
            st.sampled_from(
                (
                    b'Content-Disposition: form-data; name="%b"; filename="a.jpg"' % field,
                    b"Content-Disposition: form-data; name=%b" % field,
                    b"Content-Disposition: form-data",
                    b"",
                )
            )
        )
        body += b"--%b\r\n%b\r\n\r\n%b\r\n" % (_BOUNDARY, disposition, part)
    body += draw(st.sampled_from((b"--%b--\r\n" % _BOUNDARY, b"--%b" % _BOUNDARY, b"")))
    if body and draw(st.booleans()):
        body = draw(mutated(body))
    return body


@st.composite
def attacks(draw: DrawFn) -> Attack:
    """A photo, a form or a broken request, and what the client does then."""
    kind = draw(st.sampled_from(("photo", "photo", "photo", "form", "form", "broken")))
    query = draw(parameters)
    if kind == "form":
        path = draw(st.sampled_from((CLASSIFY, BATCH)))
        head, body = b"multipart/form-data; boundary=%b" % _BOUNDARY, draw(forms())
    else:
        path, head, body = CLASSIFY, b"image/jpeg", draw(photos)
    request = (
        b"POST %b%b HTTP/1.1\r\nHost: mlc\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
        % (path, query, head, len(body), body)
    )
    if kind != "broken":
        return Attack(request, "read", whole=True)
    break_it: Callable[[bytes], SearchStrategy[bytes]] = draw(
        st.sampled_from((mutated, lambda sent: st.integers(0, len(sent)).map(lambda n: sent[:n])))
    )
    then = draw(st.sampled_from(("hang up", "half-close")))
    return Attack(draw(break_it(request)), then, whole=False)


def _flip(photo: bytes, flips: list[tuple[int, int]]) -> bytes:
    damaged = bytearray(photo)
    for at, bit in flips:
        damaged[at] ^= 1 << bit
    return bytes(damaged)


def _overwrite(photo: bytes, writes: list[tuple[int, bytes]]) -> bytes:
    forged = bytearray(photo)
    for at, data in writes:
        forged[at : at + len(data)] = data
    return bytes(forged)

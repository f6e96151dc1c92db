"""Reads multipart/form-data from a body in memory, in every shape in which clients send it.

RFC 2046 and RFC 7578 say what a form looks like; this reads it liberally. It decides nothing about
photos: `bodies` does.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from deployments.errors import MalformedRequest, RequestTooLarge, quote

MAX_OVERHEAD_BYTES = 256 * 2**10  # a thousand parts have 150 KiB
_CR = 0x0D

_PARAMETER = re.compile(
    rb'[;\s]([^\s;="]+)\s*=\s*(?:"([^"\\]*(?:\\.[^"\\]*)*)"|([^;]*))', re.DOTALL
)
_DISPOSITION, _ENCODING = (
    re.compile(rb"^%b[ \t]*:(.*(?:\n[ \t].*)*)" % name, re.MULTILINE | re.IGNORECASE)
    for name in (rb"content-disposition", rb"content-transfer-encoding")
)
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"[ \t]*+(\r?\n|\Z)")
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_PLAIN = (b"", b"binary", b"8bit", b"7bit")


class Part(NamedTuple):
    """One part of a form.

    Attributes:
        name: of its field; "" if it has none.
        file_name: as the client sends it; None if it sends none.
        encoded: the content as it was sent.
        encoding: the Content-Transfer-Encoding, lower case; empty if it has none.
    """

    name: str
    file_name: str | None
    encoded: memoryview
    encoding: bytes

    def content(self) -> bytes:
        """The content. RFC 7578 deprecates encodings, but mail libraries that write forms use them.

        Raises:
            MalformedRequest: the encoding is unknown, or the content is not in it.
        """
        if self.encoding in _PLAIN:
            return bytes(self.encoded)
        if self.encoding == b"quoted-printable":
            return binascii.a2b_qp(self.encoded)
        if self.encoding != b"base64":
            raise MalformedRequest(
                f"a part has the Content-Transfer-Encoding {quote(_text(self.encoding))}; "
                "send it as binary, without this header"
            )
        try:
            return binascii.a2b_base64(b"".join(bytes(self.encoded).split()), strict_mode=True)
        except binascii.Error as error:
            raise MalformedRequest(f"a part is not the base64 that it declares: {error}") from error


def parts(body: bytes, content_type: bytes) -> Iterator[Part]:
    """The parts of a form, in order.

    What comes before the first boundary and after the last is skipped. Lines may end in LF alone.
    The last boundary may lack its two final dashes, but it must be there: without it, a form that
    was cut off would look like a whole one.

    Args:
        content_type: the header of the request, which names the boundary.

    Raises:
        MalformedRequest: it is no form, or it was cut off.
        RequestTooLarge: its boundaries and headers have more than MAX_OVERHEAD_BYTES.
    """
    boundary = _parameters(content_type).get(b"boundary")
    if not boundary:
        raise MalformedRequest(
            "the Content-Type of the form has no boundary; let your HTTP library set this header"
        )
    return _Scanner(body, boundary).parts()


class _Scanner:
    """Goes through a form once. Its time is bounded by the limit on the overhead."""

    def __init__(self, body: bytes, boundary: bytes) -> None:
        self._body, self._delimiter = body, b"\n--" + boundary
        self._left_bytes = MAX_OVERHEAD_BYTES

    def parts(self) -> Iterator[Part]:
        body, after = self._body, len(self._delimiter) - 1
        if not (body.startswith(self._delimiter[1:]) and self._is_whole_line(after)):
            after = self._next_delimiter(0)[1]
        if after < 0:
            raise MalformedRequest(
                "no line of the body is the boundary that its Content-Type names"
            )
        first = _LINE_END.match(body, after)
        in_crlf = first is not None and first[1] == b"\r\n"
        while line_end := _LINE_END.match(body, after):  # there is none after two dashes
            start = line_end.start(1)  # headers follow this line end, or a blank line does
            end, after = self._next_delimiter(start)
            if end < 0:
                if not body[start:].strip():
                    return
                raise MalformedRequest(
                    "the form ends without its last boundary: it was cut off, or its client "
                    "does not write one"
                )
            yield self._part(start, end - 1 if in_crlf and body[end - 1] == _CR else end)

    def _next_delimiter(self, start: int) -> tuple[int, int]:
        """Start and end of the next delimiter that is a whole line; both -1 if there is none."""
        at = self._body.find(self._delimiter, start)
        while at >= 0:
            after = at + len(self._delimiter)
            self._spend(len(self._delimiter))
            if self._is_whole_line(after):
                return at, after
            at = self._body.find(self._delimiter, after)
        return -1, -1

    def _is_whole_line(self, after: int) -> bool:
        """Whether the line ends where a delimiter does, or has the two dashes of the last one."""
        return self._body.startswith(b"--", after) or _LINE_END.match(self._body, after) is not None

    def _part(self, start: int, end: int) -> Part:
        """The part whose headers follow the line end at `start`."""
        body = self._body
        # The last line end of the headers may be that of the boundary.
        blank = _HEAD_END.search(body, start, min(end + 2, start + self._left_bytes))
        if blank is None:
            self._spend(end - start)
            raise MalformedRequest("a part of the form has no blank line after its headers")
        self._spend(blank.end() - start)
        disposition = _DISPOSITION.search(body, start, blank.start())
        encoding = _ENCODING.search(body, start, blank.start())
        named = _parameters(disposition[1]) if disposition else {}
        file_name = named.get(b"filename*", named.get(b"filename"))
        return Part(
            _text(named.get(b"name*", named.get(b"name", b""))),
            None if file_name is None else _text(file_name),
            memoryview(body)[blank.end() : end],
            encoding[1].strip().lower() if encoding else b"",
        )

    def _spend(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise RequestTooLarge(
                f"the boundaries and headers of the form have more than {MAX_OVERHEAD_BYTES} bytes"
            )


def _parameters(header: bytes) -> dict[bytes, bytes]:
    """The parameters of a header, by lower-case name. The first of a name counts."""
    found: dict[bytes, bytes] = {}
    for name, quoted, plain in _PARAMETER.findall(header):
        value = _ESCAPED.sub(rb"\1", quoted) if quoted else plain.strip(b' \t\r\n"')
        if name.endswith(b"*"):  # RFC 8187: charset'language'percent-encoded
            value = unquote_to_bytes(value.split(b"'", 2)[-1])
        found.setdefault(name.lower(), value)
    return found


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")

"""The chunks of a WebP (RFC 9649) that libwebp needs. It refuses a file cut off behind them."""

from __future__ import annotations

import struct

_PICTURE = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}
_METADATA = {b"ICCP", b"EXIF", b"XMP "}
_ANIMATED, _ALPHA = 0x02, 0x10  # flags of VP8X


def cleaned(photo: bytes) -> bytes:
    """The file without unknown chunks, without metadata that are cut off, and of its true length.

    Of an animation, only the first frame is kept. It is marked as having alpha: what it does not
    cover is transparent, whether the file says so or not. A picture that is cut off stays so: the
    decoder says what it lacks.
    """
    kept: list[bytes] = []
    at = 12
    while at + 8 <= len(photo):
        kind, length = struct.unpack_from("<4sI", photo, at)
        end = at + 8 + length
        again = kind == b"ANMF" and any(part.startswith(kind) for part in kept)
        if (kind in _PICTURE and not again) or (kind in _METADATA and end <= len(photo)):
            data = photo[at:end]
            if kind == b"VP8X" and len(data) > 8 and data[8] & _ANIMATED:
                data = data[:8] + bytes([data[8] | _ALPHA]) + data[9:]
            kept.append(data + bytes(length % 2 if end <= len(photo) else 0))
        elif kind not in _METADATA and not kind.isascii():
            break
        at = end + length % 2
    chunks = b"".join(kept)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks

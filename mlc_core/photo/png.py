"""What a PNG says beside its picture, and the same picture without what would spoil it.

Pillow decodes. This module follows the PNG specification, third edition. Like browsers, it ignores
an ancillary chunk whose checksum is wrong.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from mlc_core.errors import PhotoTooCostly, UndecodablePhoto
from mlc_core.photo import color

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
_MAX_TEXT_BYTES = 2**20  # Pillow takes no longer text
_MAX_CHUNKS = 100_000  # at most a chunk for 100 bytes of the largest photo


class Png(NamedTuple):
    """What a decoder needs to know of a PNG.

    Attributes:
        cleaned: the file with the chunks of its picture and its orientation alone.
        color: how many bits a sample has, and the colour type.
        transparent: the samples that tRNS makes transparent, of a grey or an RGB picture.
        profile: the ICC profile of its colours; None for sRGB.
        gamma: the exponent that encoded the samples, when nothing else is known of them.
    """

    cleaned: bytes
    color: tuple[int, int]
    transparent: tuple[int, ...] | None
    profile: bytes | None
    gamma: float | None


def read(photo: bytes) -> Png:
    """Read the chunks of a PNG.

    Raises:
        UndecodablePhoto: it does not begin with a header.
        PhotoTooCostly: it has more chunks than any editor writes.
    """
    critical: list[bytes] = []
    rows: list[bytes] = []
    first: dict[bytes, bytes] = {}  # ancillary kind -> its data
    texts: list[bytes] = []
    for kind, start, end in _chunks(photo):
        if kind == b"CgBI":
            raise UndecodablePhoto(
                "the PNG photo is of Apple's own variant (CgBI); send the original"
            )
        if kind in _CRITICAL:
            (rows if kind == b"IDAT" else critical).append(photo[start:end])
            continue
        if not kind[0] & 0x20 or kind in first:  # an unknown critical one, or a second one
            continue
        data = photo[start + 8 : end - 4]
        (check,) = struct.unpack_from(">I", photo, end - 4)
        if zlib.crc32(photo[start + 4 : end - 4]) != check:
            continue
        if kind in {b"iTXt", b"zTXt", b"tEXt"}:
            if data.startswith(_ORIENTATION) and _is_short(kind, data):
                texts.append(photo[start:end])
        elif kind in _READ:
            first[kind] = data
    if not critical or len(critical[0]) != 25 or critical[0][4:8] != b"IHDR":
        raise UndecodablePhoto("the PNG photo is damaged: it does not begin with a header")
    bits, color_type = critical[0][16], critical[0][17]
    palette_alpha = (
        [_chunk(b"tRNS", first[b"tRNS"])] if color_type == 3 and b"tRNS" in first else []
    )
    exif = [_chunk(b"eXIf", first[b"eXIf"])] if b"eXIf" in first else []
    head = [part for part in critical if part[4:8] != b"IEND"]
    tail = [part for part in critical if part[4:8] == b"IEND"]
    cleaned = b"".join([SIGNATURE, *head, *palette_alpha, *exif, *texts, *rows, *tail])
    profile, gamma = _color(first)
    return Png(cleaned, (bits, color_type), _transparent(first, bits, color_type), profile, gamma)


def open_(file: Png) -> PngImagePlugin.PngImageFile:
    """The picture, not yet loaded."""
    return PngImagePlugin.PngImageFile(io.BytesIO(file.cleaned))


def load(image: Image.Image, file: Png) -> Image.Image:
    """Decode the picture, with the alpha that tRNS means, to 8 bits a sample."""
    bits, kind = file.color
    if file.transparent is None or kind == 3:
        image.load()
        return _grey(image) if bits == 16 and kind == 0 else image
    if kind == 2 and bits == 16:  # Pillow keeps the high bytes; both bytes decide
        low = open_(file)
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
        opaque = np.zeros(image.size[::-1], bool)
        for n, level in enumerate(file.transparent):
            opaque |= np.asarray(image.getchannel(n)) != level >> 8
            opaque |= np.asarray(low.getchannel(n)) != level & 0xFF
        image.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
        return image
    if bits == 16:
        opaque = np.asarray(image) != file.transparent[0]
        image = _grey(image)
        image.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
        return image
    image.load()
    white = (1 << bits) - 1
    levels = tuple(level * 255 // white for level in file.transparent)
    image.info["transparency"] = levels if kind == 2 else levels[0]
    return image


def _grey(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))


_READ = {b"tRNS", b"eXIf", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"}


def _chunks(photo: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk; the last may be cut off and ends the picture."""
    at, size = len(SIGNATURE), len(photo)
    for _ in range(_MAX_CHUNKS):
        if at + 8 > size:
            return
        length, kind = struct.unpack_from(">I4s", photo, at)
        end = at + 12 + length
        if not kind.isalpha():
            return
        if end > size:
            if kind in _CRITICAL:  # the decoder says what it lacks
                yield kind, at, size
            return
        yield kind, at, end
        if kind == b"IEND":
            return
        at = end
    raise PhotoTooCostly(f"the PNG photo has over {_MAX_CHUNKS} chunks; save it again")


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def _inflated(data: bytes, limit: int) -> bytes | None:
    """The inflated data; None if they are broken, or longer than the limit."""
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(data, limit + 1)
    except zlib.error:
        return None
    return plain if inflate.eof and len(plain) <= limit else None


def _is_short(kind: bytes, data: bytes) -> bool:
    """Whether Pillow can read a text that may hold an orientation."""
    _, _, rest = data.partition(b"\0")
    if kind == b"zTXt":
        return rest[:1] == b"\0" and _inflated(rest[1:], _MAX_TEXT_BYTES) is not None
    if kind == b"iTXt" and rest[:1] != b"\0":
        text = rest[2:].split(b"\0", 2)[-1]
        return rest[1:2] == b"\0" and _inflated(text, _MAX_TEXT_BYTES) is not None
    return len(data) <= _MAX_TEXT_BYTES


def _transparent(chunks: dict[bytes, bytes], bits: int, color_type: int) -> tuple[int, ...] | None:
    count = {0: 1, 2: 3}.get(color_type)
    data = chunks.get(b"tRNS", b"")
    if count is None or len(data) < 2 * count:
        return None
    # Of fewer than 16 bits only the low ones count (11.3.1.1).
    return tuple(v & ((1 << bits) - 1) for v in struct.unpack_from(f">{count}H", data))


def _color(chunks: dict[bytes, bytes]) -> tuple[bytes | None, float | None]:
    """(profile, gamma), of the chunk that goes first where there are several (4.3)."""
    code = chunks.get(b"cICP", b"")
    if len(code) == 4 and code[2] == 0 and code[3] == 1:
        profile = color.coded_profile(code[0], code[1])
        if profile or color.is_srgb_code(code[0], code[1]):
            return profile, None
    name, _, packed = chunks.get(b"iCCP", b"").partition(b"\0")
    if name and packed[:1] == b"\0":
        profile = _inflated(packed[1:], color.MAX_PROFILE_BYTES)
        if profile:
            return profile, None
    if b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) < 4:
        return None, None
    gamma = struct.unpack_from(">I", chunks[b"gAMA"])[0] / 100_000
    if not 0.01 <= gamma <= 10:
        return None, None
    if len(chunks.get(b"cHRM", b"")) >= 32:
        values = [value / 100_000 for value in struct.unpack_from(">8I", chunks[b"cHRM"])]
        white, *primaries = ((values[n], values[n + 1]) for n in range(0, 8, 2))
        if not color.are_srgb(primaries, white):
            return color.rgb_profile(primaries, white, color.power(1 / gamma)), gamma
    return None, gamma

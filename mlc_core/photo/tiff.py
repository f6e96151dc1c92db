"""What a TIFF says of its first picture (TIFF 6.0, and BigTIFF), and its pixels as 8 bits.

Pillow and libtiff decode. This module keeps from them what is not the picture, adds layouts that
Pillow does not list, and refuses what they would decode wrongly.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImagePalette, TiffImagePlugin

from mlc_core.errors import UndecodablePhoto

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 262, 277
_STRIP_OFFSETS, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS = 273, 322, 323, 324
_PLANAR, _INK_SET, _EXTRA, _FORMAT, _COLOR_MAP = 284, 332, 338, 339, 320
_COMPRESSION, _ORIENTATION, _XMP, _PROFILE = 259, 274, 700, 34675
# The tags that the picture is made of; all others are metadata.
_PICTURE = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, 266, _STRIP_OFFSETS, _ORIENTATION, _SAMPLES,
    278, 279, _PLANAR, 292, 293, 317, _COLOR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, 325,
    _INK_SET, _EXTRA, _FORMAT, 347, *range(512, 522), *range(529, 533), _XMP, _PROFILE,
}  # fmt: skip
_UNUSED_TAG, _MAX_TAGS = 65_534, 1000
_BYTES = {1, 7}
_FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # TIFF's unsigned integers
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_NAMES = {
    _WHITE_IS_ZERO: "grey", _BLACK_IS_ZERO: "grey", _RGB: "RGB", _PALETTE: "palette",
    4: "transparency mask", _CMYK: "CMYK", _YCBCR: "YCbCr", _LAB: "CIE Lab", 9: "ICC Lab",
    10: "ITU Lab", 32803: "colour filter array", 32844: "LogL", 32845: "LogLuv",
}  # fmt: skip
_ASSOCIATED, _UNASSOCIATED = 1, 2

# Uncompressed files go to libtiff too: Pillow's own reader takes 16-bit planes for 8-bit ones.
TiffImagePlugin.READ_LIBTIFF = True
# Layouts that Pillow does not list. Two samples of 16 bits are read as four bytes, the high ones of
# which count. libtiff hands them over in the order of the processors that serve: low ones first.
for _order in (b"II", b"MM"):
    for _extra in (0, _ASSOCIATED, _UNASSOCIATED):
        for _photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
            TiffImagePlugin.OPEN_INFO[_order, _photometric, (1,), 1, (16, 16), (_extra,)] = (
                "RGBA", "RGBA",
            )  # fmt: skip
            TiffImagePlugin.OPEN_INFO[_order, _photometric, (1,), 1, (8, 8), (_extra,)] = (
                "LA", "LA",
            )  # fmt: skip
TiffImagePlugin.OPEN_INFO[b"MM", _WHITE_IS_ZERO, (1,), 1, (16,), ()] = ("I;16B", "I;16B")


class Tiff(NamedTuple):
    """The first directory of a TIFF.

    Attributes:
        tags: tag -> its values; of long lists the first 16.
        tiles: how many strips or tiles there are.
        cleaned: the same file without metadata and without further pages.
    """

    tags: dict[int, Sequence[int]]
    tiles: int
    cleaned: bytes

    def first(self, tag: int, default: int) -> int:
        """The first value of a tag."""
        values = self.tags.get(tag)
        return values[0] if values else default

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, as stored; 0 where the file does not say."""
        return self.first(_WIDTH, 0), self.first(_HEIGHT, 0)

    @property
    def compression(self) -> int:
        """The number of its compression; 1 is none."""
        return self.first(_COMPRESSION, 1)

    @property
    def pixel_bytes(self) -> float:
        """Bytes of one pixel, as decompressed."""
        return self.first(_SAMPLES, 1) * self.first(_BITS, 1) / 8

    @property
    def decoded_size(self) -> tuple[int, int]:
        """(width, height) in pixels that libtiff decodes: of whole tiles."""
        width, height = self.size
        across, down = self.first(_TILE_WIDTH, 0), self.first(_TILE_HEIGHT, 0)
        if across <= 0 or down <= 0:
            return width, height
        return -(-width // across) * across, -(-height // down) * down


def read(photo: bytes) -> Tiff:
    """Read the first directory.

    Raises:
        UndecodablePhoto: there is none, or it is cut off.
    """
    try:
        return _read(photo)
    except (struct.error, IndexError) as error:
        raise UndecodablePhoto("the TIFF photo is damaged: its directory is cut off") from error


def _read(photo: bytes) -> Tiff:
    order = "<" if photo.startswith(b"II") else ">"
    big = 43 in photo[2:4]
    start, count_format, entry_format = (8, "Q", "HHQ") if big else (4, "H", "HHI")
    inline_bytes = 8 if big else 4
    offset_format = order + ("Q" if big else "I")
    (at,) = struct.unpack_from(offset_format, photo, start)
    (count,) = struct.unpack_from(order + count_format, photo, at)
    entry = struct.Struct(order + entry_format)
    at += struct.calcsize(count_format)
    if count > _MAX_TAGS:
        raise UndecodablePhoto("the TIFF photo is damaged: its directory is too long")
    cleaned = bytearray(photo)
    tags: dict[int, Sequence[int]] = {}
    tiles = 0
    for _ in range(count):
        tag, kind, length = entry.unpack_from(photo, at)
        if tag not in _PICTURE or (tag in {_XMP, _PROFILE} and kind not in _BYTES):
            entry.pack_into(cleaned, at, _UNUSED_TAG, 1, 1)
        elif kind in _FORMATS and tag not in {_XMP, _PROFILE}:
            size = struct.calcsize(_FORMATS[kind])
            value = at + entry.size
            if length * size > inline_bytes:
                (value,) = struct.unpack_from(offset_format, photo, value)
            kept = min(length, 768 if tag == _COLOR_MAP else 16)
            tags.setdefault(tag, struct.unpack_from(f"{order}{kept}{_FORMATS[kind]}", photo, value))
            if tag in {_STRIP_OFFSETS, _TILE_OFFSETS}:
                tiles = max(tiles, length)
        at += entry.size + inline_bytes
    if at + inline_bytes <= len(cleaned):
        cleaned[at : at + inline_bytes] = bytes(inline_bytes)  # no further page
    return Tiff(tags, tiles, bytes(cleaned))


def open_(tiff: Tiff) -> Image.Image:
    """The picture, not yet loaded.

    Raises:
        UndecodablePhoto: of a layout that is not taken.
    """
    photometric = tiff.first(_PHOTOMETRIC, _WHITE_IS_ZERO)
    bits = tuple(tiff.tags.get(_BITS, (1,)))
    name = _NAMES.get(photometric, f"photometric interpretation {photometric}")
    layout = f"{name} of {'+'.join(map(str, bits))} bits"
    advice = "save it as RGB or grey with 8 or 16 bits a sample"
    if tiff.first(_FORMAT, 1) not in {1, 4}:
        raise UndecodablePhoto(
            f"TIFF of signed or floating-point samples has no defined white; {advice}"
        )
    if max(bits) > 16 or photometric not in {0, 1, 2, 3, 5, 6, 8}:
        raise UndecodablePhoto(f"TIFF in {layout} is not taken; {advice}")
    if tiff.compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise UndecodablePhoto(
            f"TIFF of compression {tiff.compression} is not taken; save it without, or as PNG"
        )
    if photometric == _CMYK and tiff.first(_INK_SET, 1) != 1:
        raise UndecodablePhoto(f"TIFF of inks other than CMYK is not taken; {advice}")
    try:
        return TiffImagePlugin.TiffImageFile(io.BytesIO(tiff.cleaned))
    except SyntaxError as error:
        if "unknown pixel mode" not in str(error) and "data organization" not in str(error):
            raise
        raise UndecodablePhoto(f"TIFF in {layout} is not taken; {advice}") from error


def load(image: Image.Image, tiff: Tiff) -> None:
    """Decode the picture.

    Raises:
        UndecodablePhoto: damaged, or of a compression that libtiff lacks.
    """
    try:
        image.load()
    except (OSError, ValueError) as error:
        name = TiffImagePlugin.COMPRESSION_INFO.get(tiff.compression, str(tiff.compression))
        raise UndecodablePhoto(
            f"the TIFF photo of compression {name.removeprefix('tiff_')} is damaged, or of a kind "
            f"that is not taken: {error}; save it without compression, or as PNG"
        ) from error


def to_8_bit(image: Image.Image, tiff: Tiff) -> Image.Image:
    """The loaded picture in a mode of 8 bits a sample: L, LA, RGB, RGBA, P, PA, CMYK, LAB, 1."""
    bits = tiff.first(_BITS, 1)
    negative = tiff.first(_PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO
    grey = tiff.first(_PHOTOMETRIC, _WHITE_IS_ZERO) in {_WHITE_IS_ZERO, _BLACK_IS_ZERO}
    extra = tiff.first(_EXTRA, 0)
    if grey and image.mode in {"RGBA", "LA"}:
        return _grey_and_extra(image, negative, extra)
    if image.mode == "La":
        return image.convert("LA")
    if image.mode.startswith("I;16"):
        return Image.fromarray(_table(bits, negative)[np.asarray(image)])
    colors = tiff.tags.get(_COLOR_MAP, ())
    if image.mode in {"P", "PA"} and colors and max(colors) < 256:  # some writers store 8 bits
        image.palette = ImagePalette.raw("RGB;L", bytes(colors))
        image.im.putpalette("RGB", "RGB;L", bytes(colors))
    return image


def _grey_and_extra(image: Image.Image, negative: bool, extra: int) -> Image.Image:
    """L or LA of two samples of 8 bits (LA), or of 16 bits as four bytes (RGBA), low ones first."""
    grey, alpha = (image.getchannel(n) for n in ((0, 1) if image.mode == "LA" else (1, 3)))
    if extra == _ASSOCIATED:
        grey, alpha = Image.merge("La", (grey, alpha)).convert("LA").split()
    if negative:
        grey = ImageChops.invert(grey)
    return Image.merge("LA", (grey, alpha)) if extra in {_ASSOCIATED, _UNASSOCIATED} else grey


def _table(bits: int, negative: bool = False) -> NDArray[np.uint8]:
    """The 8-bit level of each level of `bits`: indexing takes less memory than arithmetic."""
    white = (1 << bits) - 1
    levels = np.arange(1 << 16, dtype=np.uint32).clip(0, white)
    levels = white - levels if negative else levels
    return (levels // 257 if bits == 16 else levels * 255 // white).astype(np.uint8)

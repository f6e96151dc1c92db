"""How long a photo takes to decode, judged by its header, and which photos take too long.

A thread that decodes can't be stopped, so what is too much is refused before it is begun. Times are
of one core of a Zen 5 (docs/LOG.md, 2026-11-26). They need to be right within a factor of two.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mlc_core.errors import PhotoFault, PhotoTooCostly, PhotoTooLarge, UndecodablePhoto
from mlc_core.photo import jpeg, png, tiff
from mlc_core.photo.formats import format_of

# No photo may take longer. A core of half the speed stays within half of the default deadline.
MAX_DECODE_S = 2.0
# A small file may take _FREE_S, and from some size on each byte adds to it. Files that take longer
# are made to keep a decoder busy: 20 of them in a second must leave the cores to others. Blank
# pictures of 50 megapixels are within it: an RGB PNG takes 0.34 s for 150 KB, a progressive JPEG
# 0.43 s for 300 KB.
_FREE_S, _FREE_BYTES, _S_PER_BYTE = 0.03, 12_000, 4e-6

# Nanoseconds per pixel of blank pictures; what is in a picture costs bytes.
_PNG_NS = {0: 4, 2: 7, 3: 4, 4: 12, 6: 13}  # by colour type
_GIF_NS, _BMP_NS, _BMP_RLE_NS, _WEBP_NS, _AVIF_NS = 4, 2, 80, 8, 6
_TIFF_NS, _TIFF_BYTE_NS, _TIFF_TILE_NS = 3, 2, 1_000  # per pixel, byte of a pixel, and tile
_ROW_NS = 50
_JPEG_SAMPLE_NS = 1.7  # per sample that a scan visits, of the slowest kind: AC refinement
_LZMA = 34925


class Work(NamedTuple):
    """What a header says of the work to come.

    Attributes:
        coded_bytes: bytes that hold the picture.
        seconds: of one core, roughly.
    """

    width_px: int
    height_px: int
    coded_bytes: int
    seconds: float


def decode_s(photo: bytes) -> float:
    """Seconds of one core that decoding takes, roughly.

    0 for a JPEG of one scan, which is bound by its bytes, and for what is refused by its header.
    """
    try:
        if photo.startswith(b"\xff\xd8"):
            header = jpeg.read(photo)
            seconds, coded_bytes = _of_scans(header), header.scan_bytes
        else:
            _, _, coded_bytes, seconds = work(photo, format_of(photo))
    except PhotoFault:
        return 0
    return 0 if _too_long(seconds, coded_bytes) else seconds


def refuse_scans(photo: jpeg.Jpeg) -> None:
    """Raises PhotoTooCostly for a JPEG whose scans take too long."""
    if _too_long(_of_scans(photo), photo.scan_bytes):
        raise PhotoTooCostly(
            f"the JPEG photo has {photo.scans} scans or more, which take too long to decode; "
            "save it as a baseline JPEG"
        )


def refuse(photo: bytes, name: str, max_pixels: int) -> None:
    """Refuse a photo other than a JPEG by its header.

    Raises:
        UndecodablePhoto: it has no header.
        PhotoTooLarge: more than max_pixels.
        PhotoTooCostly: it takes too long for its bytes, or at all.
    """
    header = work(photo, name)
    refuse_too_large(header.width_px, header.height_px, max_pixels)
    if _too_long(header.seconds, header.coded_bytes):
        raise PhotoTooCostly(
            f"the {name} photo of {header.width_px}×{header.height_px} pixels takes too long to "
            f"decode for its {header.coded_bytes} bytes; send a smaller version, or save it as a "
            "baseline JPEG"
        )


def refuse_too_large(width_px: int, height_px: int, max_pixels: int) -> None:
    """Raises PhotoTooLarge above max_pixels."""
    if width_px * height_px > max_pixels:
        raise PhotoTooLarge(
            f"the photo has {width_px}×{height_px} pixels, over the limit of {max_pixels}; "
            "send a smaller version"
        )


def work(photo: bytes, name: str) -> Work:
    """What the header of a photo other than a JPEG says; nothing where it is cut off.

    Args:
        name: its format, of FORMATS.

    Raises:
        UndecodablePhoto: a TIFF without a directory.
    """
    try:
        width, height, ns = _READERS[name](photo) if name in _READERS else (0, 0, 0.0)
    except (struct.error, IndexError):
        width, height, ns = 0, 0, 0.0
    return Work(width, height, len(photo), (ns + height * _ROW_NS) * 1e-9)


def _too_long(seconds: float, coded_bytes: int) -> bool:
    return seconds > min(MAX_DECODE_S, max(_FREE_S, (coded_bytes - _FREE_BYTES) * _S_PER_BYTE))


def _of_scans(photo: jpeg.Jpeg) -> float:
    return photo.visited * _JPEG_SAMPLE_NS * 1e-9


# Each returns width, height and nanoseconds.


def _png(photo: bytes) -> tuple[int, int, float]:
    if not photo.startswith(png.SIGNATURE):
        raise UndecodablePhoto(
            "the PNG photo is damaged: its first 8 bytes are not PNG's; was it sent as text?"
        )
    if photo[12:16] != b"IHDR":  # reading the chunks says what it is
        return 0, 0, 0
    width, height, bits, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", photo, 16)
    return (
        width,
        height,
        width * height * _PNG_NS.get(color, 9) * (1 + bits // 16) * (1 + interlaced),
    )


def _gif(photo: bytes) -> tuple[int, int, float]:
    width, height = struct.unpack_from("<HH", photo, 6)
    return width, height, width * height * _GIF_NS


def _bmp(photo: bytes) -> tuple[int, int, float]:
    if photo[14] == 12:  # the header of OS/2
        width, height = struct.unpack_from("<HH", photo, 18)
        return width, height, width * height * _BMP_NS
    width, height, _, _, compression = struct.unpack_from("<iiHHI", photo, 18)
    pixels = abs(width * height)
    return abs(width), abs(height), pixels * (_BMP_RLE_NS if compression in {1, 2} else _BMP_NS)


def _webp(photo: bytes) -> tuple[int, int, float]:
    kind = photo[12:16]
    width = height = 0
    if kind == b"VP8X":
        width = int.from_bytes(photo[24:27], "little") + 1
        height = int.from_bytes(photo[27:30], "little") + 1
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", photo, 21)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", photo, 26))
    return width, height, width * height * _WEBP_NS


def _avif(photo: bytes) -> tuple[int, int, float]:
    width = height = at = 0
    while (at := photo.find(b"ispe", at + 1)) >= 0:  # of the picture, its tiles, its alpha
        sides = struct.unpack_from(">II", photo, at + 8)
        width, height = max((width, height), sides, key=lambda sides: sides[0] * sides[1])
        if at > 2**16:
            break
    return width, height, width * height * _AVIF_NS


def _tiff(photo: bytes) -> tuple[int, int, float]:
    file = tiff.read(photo)
    width, height = file.decoded_size  # also what libtiff keeps of a tile
    pixel_ns = _TIFF_NS + _TIFF_BYTE_NS * file.pixel_bytes * (2 if file.compression == _LZMA else 1)
    return width, height, width * height * pixel_ns + file.tiles * _TIFF_TILE_NS


_READERS = {"PNG": _png, "GIF": _gif, "BMP": _bmp, "WEBP": _webp, "AVIF": _avif, "TIFF": _tiff}

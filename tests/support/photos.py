"""Photo files of drawn garments: in every accepted format, and broken or hostile ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, features

from samples.garments import CATEGORIES, COLORS, as_file, draw_garment

SIZE_PX = (90, 120)


def garment(seed: int = 15, size_px: tuple[int, int] = SIZE_PX) -> Image.Image:
    """One drawn garment; category and colour vary with the seed."""
    categories, colors = list(CATEGORIES), list(COLORS)
    category = categories[seed % len(categories)]
    return draw_garment(category, colors[seed // 3 % len(colors)], size_px, seed)


def jpeg(seed: int = 15, size_px: tuple[int, int] = SIZE_PX) -> bytes:
    return as_file(garment(seed, size_px), quality=92)


def every_format() -> Iterator[tuple[str, bytes]]:
    """(name, contents) of the same garment in every format of the contract."""
    rgb = garment()
    grey, others = rgb.convert("L"), [garment(1), garment(2)]
    rgba = rgb.convert("RGBA")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    yield "jpeg", as_file(rgb)
    yield "jpeg-progressive", as_file(rgb, progressive=True)
    yield "jpeg-grey", as_file(grey)
    yield "jpeg-cmyk", as_file(rgb.convert("CMYK"))
    yield "png", as_file(rgb, "PNG")
    yield "png-grey", as_file(grey, "PNG")
    yield "png-1-bit", as_file(rgb.convert("1"), "PNG")
    yield "png-16-bit", as_file(deep, "PNG")
    yield "png-palette", as_file(rgb.quantize(64), "PNG")
    yield "png-palette-transparent", as_file(rgb.quantize(64), "PNG", transparency=0)
    yield "png-alpha", as_file(rgba, "PNG")
    yield "png-grey-alpha", as_file(rgba.convert("LA"), "PNG")
    yield "webp", as_file(rgb, "WEBP")
    yield "webp-lossless-alpha", as_file(rgba, "WEBP", lossless=True)
    yield "webp-animated", as_file(rgb, "WEBP", save_all=True, append_images=others)
    yield "gif", as_file(rgb, "GIF")
    yield "gif-animated", as_file(rgb, "GIF", save_all=True, append_images=others)
    yield "bmp", as_file(rgb, "BMP")
    yield "tiff", as_file(rgb, "TIFF")
    yield "tiff-lzw", as_file(rgb, "TIFF", compression="tiff_lzw")
    yield "tiff-cmyk", as_file(rgb.convert("CMYK"), "TIFF")
    yield "tiff-16-bit", as_file(deep, "TIFF")
    if features.check("avif"):
        yield "avif", as_file(rgb, "AVIF")


FORMATS = dict(every_format())
TRUNCATED = FORMATS["jpeg"][: len(FORMATS["jpeg"]) // 2]


def forged_png(width_px: int, height_px: int) -> bytes:
    """A few bytes whose header claims that many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def slow_photo() -> bytes:
    """A small file that is slow to decode: it has nearly as many pixels as the limit."""
    return as_file(Image.new("1", (7000, 7000), 1), "PNG")

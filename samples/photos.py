"""Many different product photos, as files."""

from __future__ import annotations

import io
import itertools
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


def small_photos(count: int) -> list[bytes]:
    """JPEGs of 60×80 pixels, about 1.5 KB each, no two alike."""
    return [as_file(garment, quality=85) for garment in _garments(count, (60, 80))]


def large_photos(count: int) -> list[bytes]:
    """JPEGs of 1080×1440 pixels with a camera's noise, about 390 KB each, no two alike."""
    chance = np.random.default_rng(0)
    photos = []
    for garment in _garments(count, (270, 360)):
        pixels = np.asarray(garment.resize((1080, 1440), Image.Resampling.BICUBIC), np.int16)
        noise = chance.normal(0, 6, (*pixels.shape[:2], 1)).astype(np.int16)
        file = io.BytesIO()
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(
            file, "JPEG", quality=92
        )
        photos.append(file.getvalue())
    return photos


def _garments(count: int, size_px: tuple[int, int]) -> list[Image.Image]:
    kinds = itertools.cycle(itertools.product(CATEGORIES, COLORS))
    return [draw_garment(*next(kinds), size_px, seed) for seed in range(count)]

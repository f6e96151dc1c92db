"""Many different product photos, as files."""

from __future__ import annotations

import io
import itertools

import numpy as np
from PIL import Image

from samples.garments import CATEGORIES, COLORS, as_file, draw_garment


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

"""Shows the same photo otherwise, as catalogues hold it: cropped, shrunk, mirrored."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import label

Variant = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]

_CROP = (0.8, 0.95)  # of width and height
_QUALITY = 40  # of a JPEG file
_SHIFT_PX = 5
_WHITE_LEVEL, _GREY_LEVELS = 240, (170, 225)
_MOST_AT_ONCE = 2


def crop(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A part of the picture, enlarged to its size."""
    height_px, width_px, _ = image.shape
    kept = rng.uniform(*_CROP)
    down_px, across_px = round(height_px * kept), round(width_px * kept)
    top = rng.integers(0, height_px - down_px + 1)
    left = rng.integers(0, width_px - across_px + 1)
    part = Image.fromarray(image[top : top + down_px, left : left + across_px])
    return np.asarray(part.resize((width_px, height_px), Image.Resampling.BILINEAR))


def shrink(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:  # noqa: ARG001
    """Half of the width and height, enlarged to the size again."""
    height_px, width_px, _ = image.shape
    half = Image.fromarray(image).resize((width_px // 2, height_px // 2), Image.Resampling.BILINEAR)
    return np.asarray(half.resize((width_px, height_px), Image.Resampling.BILINEAR))


def recompress(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:  # noqa: ARG001
    """Through a JPEG file of low quality."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_QUALITY)
    with Image.open(file) as decoded:
        return np.asarray(decoded.convert("RGB"))


def mirror(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:  # noqa: ARG001
    """Left and right exchanged."""
    return image[:, ::-1]


def shift(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Moved by a few pixels, onto white."""
    height_px, width_px, _ = image.shape
    border = ((_SHIFT_PX, _SHIFT_PX), (_SHIFT_PX, _SHIFT_PX), (0, 0))
    padded = np.pad(image, border, constant_values=255)
    top, left = rng.integers(0, 2 * _SHIFT_PX + 1, 2)
    return padded[top : top + height_px, left : left + width_px]


def grey_background(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Grey in place of the white that is joined to the border."""
    regions, _ = label(image.min(axis=2) >= _WHITE_LEVEL)
    edges = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    background = np.isin(regions, np.unique(edges[edges > 0]))
    return np.where(background[..., None], np.uint8(rng.integers(*_GREY_LEVELS)), image)


VARIANTS: Mapping[str, Variant] = {
    "crop": crop,
    "half_size": shrink,
    "jpeg_40": recompress,
    "mirror": mirror,
    "shift": shift,
    "grey_background": grey_background,
}


def vary(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One or two variants of a picture, chosen at random, one after the other."""
    chosen = rng.choice(len(VARIANTS), rng.integers(1, _MOST_AT_ONCE + 1), replace=False)
    variants = list(VARIANTS.values())
    for number in chosen.tolist():
        image = variants[number](image, rng)
    return image

"""Varies training photos as a shop's photos vary, without changing their labels.

Hue stays, because colour is a label. Larger photos reach the network sharper or softer than the
small ones that it trains on, and without their JPEG blocks. So sharpness and JPEG quality vary too.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

_SCALE, _STRETCH, _SHIFT = 0.12, 0.05, 0.08  # at most, as a fraction of the picture
_BORDER = _SHIFT + (1 + _SCALE) * (1 + _STRETCH) / 2 - 0.5 + 0.01
_LIGHT = 0.12
_JITTER_PX = 3
_WHITE = (255, 255, 255)


def augment(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Vary each of a batch of images, shape (N, height_px, width_px, 3), on its own."""
    return np.stack([_vary(image, rng) for image in images])


def augment_view(
    images: NDArray[np.uint8], seed: int, view: int, positions: NDArray[np.intp]
) -> NDArray[np.uint8]:
    """Vary each image on its own, always in the same way for the same seed, view and position.

    View 0 leaves them as they are.
    """
    if view == 0:
        return images
    numbers = zip(images, positions.tolist(), strict=True)
    return np.stack(
        [_vary(image, np.random.default_rng((seed, view, at))) for image, at in numbers]
    )


def jitter(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mirror each image at random, and shift it by a few pixels onto white: it looks the same."""
    count, height_px, width_px, _ = images.shape
    mirrored = rng.random((count, 1, 1, 1)) < 0.5
    images = np.where(mirrored, images[:, :, ::-1], images)
    border = ((0, 0), (_JITTER_PX, _JITTER_PX), (_JITTER_PX, _JITTER_PX), (0, 0))
    padded = np.pad(images, border, constant_values=255)
    corners = rng.integers(0, 2 * _JITTER_PX + 1, (count, 2)).tolist()
    return np.stack(
        [
            image[top : top + height_px, left : left + width_px]
            for image, (top, left) in zip(padded, corners, strict=True)
        ]
    )


def _vary(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    image = _move(Image.fromarray(pixels), rng)
    if rng.random() < 0.3:
        image = _resharpen(image, rng)
    if rng.random() < 0.2:
        image = _recompress(image, int(rng.integers(60, 96)))
    if rng.random() < 0.5:
        gain = rng.uniform(1 - _LIGHT, 1 + _LIGHT)
        lit = (np.arange(256) * gain).round().clip(0, 255).astype(int).tolist()
        image = image.point(lit * 3)
    return np.asarray(image)


def _move(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Mirror, scale, stretch and shift; the area outside the picture is white."""
    width_px, height_px = image.size
    scale, stretch = rng.uniform(1 - _SCALE, 1 + _SCALE), rng.uniform(1 - _STRETCH, 1 + _STRETCH)
    across_px, down_px = width_px * scale * stretch, height_px * scale / stretch
    shift_x, shift_y = rng.uniform(-_SHIFT, _SHIFT, 2)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # The cut is taken from a canvas whose white border is wide enough for every cut.
    border_x, border_y = round(width_px * _BORDER), round(height_px * _BORDER)
    canvas = Image.new("RGB", (width_px + 2 * border_x, height_px + 2 * border_y), _WHITE)
    canvas.paste(image, (border_x, border_y))
    left_px = border_x + (width_px - across_px) / 2 + shift_x * width_px
    top_px = border_y + (height_px - down_px) / 2 + shift_y * height_px
    cut = (left_px, top_px, left_px + across_px, top_px + down_px)
    return canvas.resize(image.size, Image.Resampling.BICUBIC, box=cut)


def _resharpen(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < 0.5:
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8)))
    return image.filter(ImageFilter.UnsharpMask(radius=1, percent=int(rng.integers(20, 100))))


def _recompress(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    with Image.open(file) as decoded:
        return decoded.convert("RGB")

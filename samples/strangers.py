"""Draws what is no product photo, always in the same way: a model should not be sure of it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

_SMOOTHING = 4  # drawn this much larger, then scaled down


def draw_stranger(kind: str, seed: int = 0, size_px: tuple[int, int] = (60, 80)) -> Image.Image:
    """One picture of something that no catalogue of fashion shows.

    Args:
        kind: one of STRANGERS.
        seed: varies the picture; the same arguments give the same one.
        size_px: (width, height).

    Returns:
        RGB image.
    """
    chance = random.Random(f"{kind} {seed}")  # noqa: S311  (a picture, no secret)
    width, height = (side * _SMOOTHING for side in size_px)
    image = Image.new("RGB", (width, height), "white")
    image = STRANGERS[kind](image, chance)
    return image.resize(size_px, Image.Resampling.LANCZOS)


def _white(image: Image.Image, chance: random.Random) -> Image.Image:
    level = chance.randint(244, 255)
    return Image.new("RGB", image.size, (level, level, level))


def _plain(image: Image.Image, chance: random.Random) -> Image.Image:
    return Image.new("RGB", image.size, _color(chance))


def _noise(image: Image.Image, chance: random.Random) -> Image.Image:
    rng = np.random.default_rng(chance.randrange(2**32))
    width, height = (side // _SMOOTHING for side in image.size)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).resize(
        image.size, Image.Resampling.NEAREST
    )


def _clouds(image: Image.Image, chance: random.Random) -> Image.Image:
    """Smooth noise."""
    rng = np.random.default_rng(chance.randrange(2**32))
    coarse = rng.integers(0, 256, (6, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize(image.size, Image.Resampling.BICUBIC)


def _face(image: Image.Image, chance: random.Random) -> Image.Image:
    width, height = image.size
    image.paste(_color(chance), (0, 0, width, height))
    draw = ImageDraw.Draw(image)
    skin = chance.choice([(241, 200, 170), (205, 150, 115), (140, 90, 62), (92, 58, 42)])
    hair = chance.choice([(30, 24, 20), (92, 60, 30), (205, 170, 100), (150, 150, 152)])
    x, y = width * chance.uniform(0.45, 0.55), height * chance.uniform(0.42, 0.52)
    wide, tall = width * chance.uniform(0.26, 0.36), height * chance.uniform(0.24, 0.32)
    draw.ellipse((x - 2 * wide, y + 1.2 * tall, x + 2 * wide, y + 4 * tall), fill=_color(chance))
    draw.ellipse((x - 1.15 * wide, y - 1.25 * tall, x + 1.15 * wide, y + 0.7 * tall), fill=hair)
    draw.rectangle((x - wide / 3, y + 0.6 * tall, x + wide / 3, y + 1.5 * tall), fill=skin)
    draw.ellipse((x - wide, y - tall, x + wide, y + tall), fill=skin)
    for side in (-1, 1):
        eye = x + side * wide * 0.4, y - tall * 0.15
        draw.ellipse((eye[0] - 12, eye[1] - 7, eye[0] + 12, eye[1] + 7), fill="white")
        draw.ellipse((eye[0] - 6, eye[1] - 6, eye[0] + 6, eye[1] + 6), fill=(40, 30, 25))
        draw.line((eye[0] - 14, eye[1] - 20, eye[0] + 14, eye[1] - 20), fill=hair, width=5)
    draw.line((x, y - 0.1 * tall, x - 6, y + 0.25 * tall, x + 4, y + 0.28 * tall), hair, 3)
    smile = chance.uniform(0.1, 0.3) * tall
    draw.chord((x - wide / 2.5, y + tall / 2 - smile, x + wide / 2.5, y + tall / 2 + smile), 0, 180,
               fill=(165, 60, 60))  # fmt: skip
    return image


def _landscape(image: Image.Image, chance: random.Random) -> Image.Image:
    width, height = image.size
    top, bottom = (110, 165, 225), (225, 235, 245)
    draw = ImageDraw.Draw(image)
    for row in range(height):
        share = row / height
        sky = tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        draw.line((0, row, width, row), fill=sky)
    x, y = width * chance.uniform(0.15, 0.85), height * chance.uniform(0.1, 0.3)
    draw.ellipse((x - 20, y - 20, x + 20, y + 20), fill=(255, 240, 170))
    for ridge, color in enumerate([(120, 135, 160), (95, 125, 100), (70, 110, 60)]):
        base = height * (0.45 + 0.15 * ridge)
        phase, waves = chance.uniform(0, 6), chance.uniform(1, 3)
        line = [
            (at, base - height * 0.1 * math.sin(phase + waves * 2 * math.pi * at / width))
            for at in range(0, width + 8, 8)
        ]
        draw.polygon([*line, (width, height), (0, height)], fill=color)
    for _ in range(chance.randint(2, 6)):
        x, y = width * chance.random(), height * chance.uniform(0.75, 0.95)
        draw.rectangle((x - 3, y - 20, x + 3, y), fill=(90, 65, 45))
        draw.polygon([(x - 18, y - 15), (x + 18, y - 15), (x, y - 65)], fill=(35, 80, 45))
    return image


def _text(image: Image.Image, chance: random.Random) -> Image.Image:
    """A page of text, as a receipt or a screenshot has it."""
    draw = ImageDraw.Draw(image)
    for y in range(20, image.height - 20, 16):
        x = 20
        while x < image.width - 30:
            word = chance.randint(10, 50)
            if chance.random() < 0.9:
                draw.rectangle((x, y, min(x + word, image.width - 20), y + 7), fill=(60, 60, 65))
            x += word + 8
    return image


def _color(chance: random.Random) -> tuple[int, int, int]:
    return chance.randrange(256), chance.randrange(256), chance.randrange(256)


STRANGERS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "white": _white,
    "plain colour": _plain,
    "noise": _noise,
    "clouds": _clouds,
    "face": _face,
    "landscape": _landscape,
    "page of text": _text,
}

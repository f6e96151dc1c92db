"""Draws garments in known colours, always the same way. Tests and demos use them as photos."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

# The names of the data set's base colours.
COLORS = {
    "Black": (25, 25, 27),
    "Blue": (45, 95, 190),
    "Green": (40, 120, 60),
    "Grey": (135, 135, 138),
    "Pink": (240, 150, 180),
    "Red": (195, 25, 35),
    "White": (242, 242, 240),
    "Yellow": (240, 205, 50),
}
# More of them, for pictures of what is mistaken for what.
SHADES = COLORS | {
    "Beige": (222, 205, 175),
    "Brown": (95, 62, 42),
    "Charcoal": (60, 62, 66),
    "Cream": (245, 235, 205),
    "Gold": (205, 165, 75),
    "Maroon": (110, 25, 40),
    "Navy Blue": (28, 36, 78),
    "Olive": (105, 110, 50),
    "Orange": (240, 135, 40),
    "Purple": (105, 60, 140),
    "Silver": (192, 192, 196),
}
# category -> (master category, sub-category), as the data set has them.
CATEGORIES = {
    "Tshirts": ("Apparel", "Topwear"),
    "Trousers": ("Apparel", "Bottomwear"),
    "Handbags": ("Accessories", "Bags"),
    "Ties": ("Accessories", "Ties"),
    "Casual Shoes": ("Footwear", "Shoes"),
}
# The data set's column `usage`, which no head names yet.
USAGES = {
    "Tshirts": "Casual",
    "Trousers": "Formal",
    "Handbags": "Casual",
    "Ties": "Formal",
    "Casual Shoes": "Casual",
}
_SMOOTHING = 4  # drawn this much larger, then scaled down


def draw_garment(
    category: str, color: str, size_px: tuple[int, int] = (60, 80), seed: int = 0
) -> Image.Image:
    """One garment on white, as a catalogue shows it.

    Args:
        category: one of CATEGORIES.
        color: one of SHADES.
        size_px: (width, height).
        seed: varies place, size and trim; the same arguments give the same picture.

    Returns:
        RGB image.
    """
    chance = random.Random(f"{category} {color} {seed}")  # noqa: S311  (a picture, no secret)
    width, height = (side * _SMOOTHING for side in size_px)
    image = Image.new("RGB", (width, height), "white")
    scale = chance.uniform(0.8, 1.0)
    left = chance.uniform(0, 1 - scale) * width
    top = chance.uniform(0, 1 - scale) * height

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * scale * width, top + y * scale * height

    def polygon(points: list[tuple[float, float]], shade: float) -> None:
        fill = tuple(round(level * shade) for level in SHADES[color])
        draw.polygon([place(*point) for point in points], fill=fill, outline=edge, width=_SMOOTHING)

    edge = tuple(round(level * 0.7) for level in SHADES[color])
    draw = ImageDraw.Draw(image)
    _SHAPES[category](polygon, chance)
    return image.resize(size_px, Image.Resampling.LANCZOS)


def write_dataset(path: Path, photos_each: int, size_px: tuple[int, int] = (60, 80)) -> int:
    """Write a data set of every category in every colour; return the number of photos."""
    (path / "images").mkdir(parents=True)
    rows: list[list[str]] = []
    for category, (master, sub) in CATEGORIES.items():
        for color in COLORS:
            for seed in range(photos_each):
                number = str(1000 + len(rows))
                image = draw_garment(category, color, size_px, seed)
                image.save(path / "images" / f"{number}.jpg", quality=92)
                name = f"{color} {category}"
                rows.append([number, master, sub, category, color, USAGES[category], name])
    columns = "id,masterCategory,subCategory,articleType,baseColour,usage,productDisplayName"
    with (path / "styles.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns.split(","), *rows])
    return len(rows)


def as_file(image: Image.Image, format_name: str = "JPEG", **options: object) -> bytes:
    """The image as the contents of a file."""
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


_Polygon = Callable[[list[tuple[float, float]], float], None]


def _tshirt(polygon: _Polygon, chance: random.Random) -> None:
    sleeve, neck = chance.uniform(0.3, 0.5), chance.uniform(0.08, 0.2)
    hem = chance.uniform(0.8, 0.98)
    left = [(0.4, 0.05), (0.25, 0.08), (0.02, sleeve), (0.15, sleeve + 0.08), (0.25, 0.3)]
    right = [(1 - x, y) for x, y in reversed(left)]
    polygon([*left, (0.25, hem), (0.75, hem), *right, (0.5, 0.05 + neck)], 1)
    _trim(polygon, chance, 0.3, 0.7, 0.35, hem - 0.05)


def _trousers(polygon: _Polygon, chance: random.Random) -> None:
    foot, crotch = chance.uniform(0.1, 0.22), chance.uniform(0.3, 0.45)
    inner = chance.uniform(0.4, 0.47)
    legs = [(0.28, 0.02), (0.2, 0.5), (inner - foot, 0.98), (inner, 0.98), (0.5, crotch)]
    right = [(1 - x, y) for x, y in reversed(legs[:-1])]
    polygon([*legs, *right], 1)
    polygon([(0.28, 0.02), (0.72, 0.02), (0.73, 0.07), (0.27, 0.07)], 0.8)
    _trim(polygon, chance, 0.24, 0.38, 0.15, 0.6)


def _handbag(polygon: _Polygon, chance: random.Random) -> None:
    rim, grip = chance.uniform(0.4, 0.55), chance.uniform(0.15, 0.3)
    slant = chance.uniform(0, 0.12)
    polygon([(0.3, rim), (0.35, grip), (0.65, grip), (0.7, rim), (0.62, rim), (0.6, grip + 0.06),
             (0.4, grip + 0.06), (0.38, rim)], 0.8)  # fmt: skip
    polygon([(0.05 + slant, rim), (0.95 - slant, rim), (0.98, 0.9), (0.02, 0.9)], 1)
    _trim(polygon, chance, 0.15, 0.85, rim + 0.05, 0.85)


def _tie(polygon: _Polygon, chance: random.Random) -> None:
    wide, tilt = chance.uniform(0.08, 0.14), chance.uniform(-0.06, 0.06)
    polygon([(0.44, 0.02), (0.56, 0.02), (0.54, 0.12), (0.46, 0.12)], 0.85)
    end = 0.5 + tilt
    polygon([(0.47, 0.12), (0.53, 0.12), (end + wide, 0.88), (end, 0.98), (end - wide, 0.88)], 1)
    _trim(polygon, chance, 0.47, 0.53, 0.3, 0.85)


def _shoe(polygon: _Polygon, chance: random.Random) -> None:
    ankle, toe = chance.uniform(0.28, 0.42), chance.uniform(0.52, 0.62)
    polygon([(0.05, ankle), (0.35, ankle), (0.55, 0.5), (0.9, toe), (0.96, 0.7), (0.05, 0.7)], 1)
    sole = chance.uniform(0.74, 0.8)
    polygon([(0.04, 0.69), (0.97, 0.69), (0.95, sole), (0.04, sole)], 0.6)
    _trim(polygon, chance, 0.1, 0.45, 0.5, 0.66)


def _trim(
    polygon: _Polygon, chance: random.Random, left: float, right: float, top: float, bottom: float
) -> None:
    """Patches in lighter and darker shades, so that no two garments are the same picture."""
    for _ in range(4):
        x, y = chance.uniform(left, right), chance.uniform(top, bottom)
        reach_x, reach_y = chance.uniform(0.1, 0.5), chance.uniform(0.1, 0.4)
        x_to, y_to = min(right, x + reach_x), min(bottom, y + reach_y)
        polygon([(x, y), (x_to, y), (x_to, y_to), (x, y_to)], chance.choice((0.8, 0.9, 1.0)))


_SHAPES = {
    "Tshirts": _tshirt,
    "Trousers": _trousers,
    "Handbags": _handbag,
    "Ties": _tie,
    "Casual Shoes": _shoe,
}

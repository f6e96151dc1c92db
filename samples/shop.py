"""`python -m samples.shop DIR`: draws a shop's products, with a table of what it knows of them."""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

from samples.garments import CATEGORIES, SHADES, draw_garment

_SIZE_PX = (120, 160)
_BRANDS = ("Aster", "Birch", "Clover", "Dahlia", "Elder")
_PRICES = {"Tshirts": 15, "Trousers": 45, "Handbags": 80, "Ties": 20, "Casual Shoes": 60}


def write_shop(path: Path, products: int) -> None:
    """Write products.csv and the photos that it names; the same number gives the same shop."""
    (path / "photos").mkdir(parents=True, exist_ok=True)
    categories, colors = list(CATEGORIES), list(SHADES)
    rows: list[list[object]] = []
    for number in range(products):
        chance = random.Random(number)  # noqa: S311  (a price, no secret)
        category, color = categories[number % len(categories)], chance.choice(colors)
        photo = f"photos/{number}.jpg"
        draw_garment(category, color, _SIZE_PX, number).save(path / photo, quality=90)
        price = round(_PRICES[category] * chance.uniform(0.6, 1.8), 2)
        in_stock = "true" if chance.random() < 0.8 else "false"
        rows.append([f"P{number:05}", photo, chance.choice(_BRANDS), price, in_stock])
    with (path / "products.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "image", "brand", "price", "in_stock"], *rows])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m samples.shop", description=__doc__)
    parser.add_argument("path", type=Path, metavar="DIR")
    parser.add_argument("--products", type=int, default=2000, metavar="N")
    options = parser.parse_args()
    write_shop(options.path, options.products)


if __name__ == "__main__":
    main()

"""A shop's traffic: chooses the next photo, and checks the answer to it."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from samples.garments import CATEGORIES, COLORS, draw_garment

# Share of each kind among the photos of a shop: size in pixels, format.
_KINDS = (
    (0.40, (60, 80), "JPEG"),
    (0.35, (300, 400), "JPEG"),
    (0.10, (900, 1200), "JPEG"),
    (0.08, (300, 400), "PNG"),
    (0.07, (300, 400), "WEBP"),
)
# Larger photos are enlarged from this size: a worker that draws for seconds starts that much later.
_DRAWN_PX = (60, 80)
# Requests for a photo fall with its rank to this power (web requests: 0.64 to 0.83; Breslau
# et al. 1999, Web Caching and Zipf-like Distributions).
_ZIPF = 0.8
_BAD = (415, 422)
_VERSION = re.compile(rb'"model": ?{"name": ?"[^"]*", ?"version": ?"([^"]*)"')
REFUSED = "refused"
BAD = (b"no photo at all", b"\xff\xd8\xff\xe0 a JPEG that ends here", b"GIF89a")


class Many(NamedTuple):
    """Batch requests: their share of all requests, and how many photos each carries."""

    share: float
    photos: int


MANY = Many(0.1, 4)
FILTERED, FILTER = 1 / 3, "category=Tshirts"  # share of the searches with a filter


class Traffic:
    """Photos in the order that shoppers ask for them.

    Args:
        photos: the most popular first.
        bad_share: share of what is sent that is not a photo.
        seed: seed of the order.
    """

    def __init__(self, photos: Sequence[bytes], bad_share: float = 0.0, seed: int = 0) -> None:
        weights = np.arange(1, len(photos) + 1) ** -_ZIPF
        self._photos, self._weights = photos, weights / weights.sum()
        self._bad_share, self._chance = bad_share, np.random.default_rng(seed)
        self._bad = itertools.cycle(BAD)

    def next_photo(self) -> tuple[bytes, bool]:
        """The contents of a photo, and whether they are really a photo."""
        if self._chance.random() < self._bad_share:
            return next(self._bad), False
        return self._photos[self._chance.choice(len(self._photos), p=self._weights)], True


@cache
def photos(directory: str | None) -> Sequence[bytes]:
    """The files of a directory, sorted by name; drawn photos if `directory` is None.

    Raises:
        ValueError: a file is not a photo, or there are no files.
    """
    if directory is None:
        return _drawn()
    files = [file for file in sorted(Path(directory).iterdir()) if file.is_file()]
    if not files:
        raise ValueError(f"{directory} holds no photos; name another with --photos")
    for file in files:
        try:
            Image.open(file).close()
        except UnidentifiedImageError as error:
            raise ValueError(f"{error}; --photos takes a directory of photos alone") from error
    return [file.read_bytes() for file in files]


def _drawn(count: int = 200) -> list[bytes]:
    """Garments in a shop's mix of sizes and formats, no two alike."""
    looks = itertools.cycle(itertools.product(CATEGORIES, COLORS))
    chance = np.random.default_rng(0)
    kinds = chance.choice(len(_KINDS), count, p=[share for share, _, _ in _KINDS])
    drawn = []
    for seed, kind in enumerate(kinds):
        _, size_px, file_format = _KINDS[kind]
        file = io.BytesIO()
        garment = draw_garment(*next(looks), min(size_px, _DRAWN_PX), seed)
        garment.resize(size_px).save(file, file_format)
        drawn.append(file.getvalue())
    return drawn


def version_of(body: bytes | None) -> str:
    """The model version in an answer; "" if the body is not an answer."""
    found = _VERSION.search(body or b"")
    return found[1].decode() if found else ""


def fault_of(
    status: int,
    body: bytes | None,
    good: Sequence[bool],
    heads: Mapping[str, Sequence[str]],
    *,
    many: bool = False,
) -> str | None:
    """What is wrong with the answer to a request; None when it is right.

    Args:
        status: 0 for no answer at all.
        good: for each photo sent, whether it is one; bad ones must be refused with 415 or 422.
        heads: head -> classes of the model that answered.
        many: whether it was a batch request.
    """
    if status == 0:
        return "no answer"
    if status in {429, 503}:
        return f"{REFUSED}: {status}"
    if not many and not good[0]:
        return None if status in _BAD else f"a bad photo was answered {status}"
    if status != 200:
        return f"status {status}"
    try:
        answer = json.loads(body or b"")
        results = answer["results"] if many else [answer]
        if len(results) != len(good):
            return f"{len(results)} results to {len(good)} photos"
        faults = (_fault(result, each, heads) for result, each in zip(results, good, strict=True))
        return next(filter(None, faults), None)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"not an answer: {error!r}"


def fault_of_search(body: bytes | None, *, filtered: bool) -> str | None:
    """What is wrong with the products that a search answers; None when they are right."""
    try:
        products = json.loads(body or b"")["products"]
        similarity = [product["similarity"] for product in products]
        categories = {product["labels"]["category"] for product in products}
    except (ValueError, LookupError, TypeError) as error:
        return f"no products: {error!r}"
    if not products and not filtered:
        return "no products; does the catalogue have any?"
    if similarity != sorted(similarity, reverse=True):
        return "the most similar products do not come first"
    return "products that the filter excludes" if filtered and categories - {"Tshirts"} else None


def _fault(result: Mapping[str, Any], good: bool, heads: Mapping[str, Sequence[str]]) -> str | None:
    status = result.get("status", 200)
    if status in {429, 503}:
        return f"{REFUSED}: {status}"
    if not good:
        return None if status in _BAD else f"a bad photo was answered {status}"
    if status != 200:
        return f"status {status} in a batch"
    labels = result["labels"]
    wrong = [head for head in heads if labels[head]["label"] not in heads[head]]
    return f"labels of no class: {', '.join(wrong)}" if wrong else None

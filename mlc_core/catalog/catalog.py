"""What a catalogue is: a shop's products, embedded by one model, and the search among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlc_core.catalog.filters import Filter, Value
from mlc_core.errors import MlcError

ID = r"[^\x00-\x1f\x7f]{1,200}"  # of a product


class CatalogError(MlcError):
    """A catalogue can't be opened, or was indexed by another model."""


class Product(NamedTuple):
    """A product of the shop.

    Attributes:
        id: the shop's own.
        vector: float32 (dimensions,), of length 1.
        labels: head -> label.
        attributes: whatever the shop filters by.
        photo: SHA-256 of its file, so that an unchanged one need not be embedded again.
        picture: the photo as `picture_of` writes it. `get` and searches leave it out, and `put`
            without it leaves the one before.
    """

    id: str
    vector: NDArray[np.float32]
    labels: Mapping[str, str]
    attributes: Mapping[str, Value]
    photo: bytes = b""
    picture: bytes = b""


class Hit(NamedTuple):
    """A product that looks like a photo.

    Attributes:
        similarity: the cosine of both embeddings, -1 to 1.
    """

    id: str
    similarity: float
    labels: Mapping[str, str]
    attributes: Mapping[str, Value]


class Products(Protocol):
    """The products of a catalogue. Threads may use it at the same time."""

    def __len__(self) -> int: ...

    def get(self, ids: Sequence[str]) -> dict[str, Product]:
        """The products with these ids, those that there are."""
        ...

    def picture(self, name: str) -> bytes | None:
        """The picture of a product; None if it has none."""
        ...

    def put(self, products: Sequence[Product]) -> None:
        """Add products, or replace those of the same id. They are on the disk when it returns."""
        ...

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Remove products; returns the ids of those that were there."""
        ...

    def written_at(self) -> float | None:
        """When a product was written last, in seconds since 1970; None if there is none."""
        ...

    def close(self) -> None:
        """End its connections; what was acknowledged is on the disk already."""
        ...


class Catalog(Products, Protocol):
    """Products that can be searched."""

    def search(
        self, vector: NDArray[np.float32], count: int, filters: Sequence[Filter] = ()
    ) -> list[Hit]:
        """The products that are most similar, of those that pass all filters, the best first.

        Args:
            vector: (dimensions,), of length 1.
            count: at most so many.
        """
        ...

    def follow(self) -> None:
        """Take over what other processes have written."""
        ...

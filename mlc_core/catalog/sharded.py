"""A catalogue in several parts: the hash of a product's id says which one has it."""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlc_core.catalog.catalog import Catalog, Hit, Product
from mlc_core.catalog.filters import Filter

_THREADS = 8  # for each shard
_Item = TypeVar("_Item")


class ShardedCatalog:
    """Searches all shards at the same time, and changes those that have the products.

    A search fails if a shard does. A write that fails may have reached some of the shards, so it
    should be repeated.

    Args:
        catalogs: the shards. Their number and order decide where a product is. If either changes,
            the products must be indexed again.
    """

    def __init__(self, catalogs: Sequence[Catalog]) -> None:
        self._catalogs = catalogs
        self._pool = ThreadPoolExecutor(_THREADS * len(catalogs))

    def __len__(self) -> int:
        return sum(self._pool.map(len, self._catalogs))

    def search(
        self, vector: NDArray[np.float32], count: int, filters: Sequence[Filter] = ()
    ) -> list[Hit]:
        """The products that are most similar, of those that pass all filters, the best first."""
        hits = self._pool.map(lambda each: each.search(vector, count, filters), self._catalogs)
        return heapq.nlargest(count, chain.from_iterable(hits), key=lambda hit: hit.similarity)

    def get(self, ids: Sequence[str]) -> dict[str, Product]:
        """The products with these ids, those that there are."""
        found = self._pool.map(lambda part: part[0].get(part[1]), self._parts(ids, str))
        return dict(chain.from_iterable(each.items() for each in found))

    def picture(self, name: str) -> bytes | None:
        """The picture of a product; None if it has none."""
        ((catalog, _),) = self._parts([name], str)
        return catalog.picture(name)

    def put(self, products: Sequence[Product]) -> None:
        """Add products, or replace those of the same id. They are on the disk when it returns."""
        parts = self._parts(products, lambda product: product.id)
        list(self._pool.map(lambda part: part[0].put(part[1]), parts))

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Remove products; returns the ids of those that were there."""
        done = self._pool.map(lambda part: part[0].remove(part[1]), self._parts(ids, str))
        removed = set(chain.from_iterable(done))
        return [each for each in dict.fromkeys(ids) if each in removed]

    def written_at(self) -> float | None:
        """When a product was written or removed last, in seconds since 1970; None if none was."""
        times = self._pool.map(lambda each: each.written_at(), self._catalogs)
        return max((each for each in times if each is not None), default=None)

    def follow(self) -> None:
        """Take over what other processes have written."""
        list(self._pool.map(lambda each: each.follow(), self._catalogs))

    def close(self) -> None:
        """End the connections of all shards."""
        self._pool.shutdown()
        for each in self._catalogs:
            each.close()

    def _parts(
        self, items: Sequence[_Item], name: Callable[[_Item], str]
    ) -> list[tuple[Catalog, list[_Item]]]:
        """The shards that have some of the items, each with its own."""
        parts: dict[int, list[_Item]] = defaultdict(list)
        for item in items:
            digest = hashlib.sha256(name(item).encode("utf-8", "surrogatepass")).digest()
            parts[int.from_bytes(digest[:8], "big") % len(self._catalogs)].append(item)
        return [(self._catalogs[number], part) for number, part in parts.items()]

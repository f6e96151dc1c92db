"""Finds the nearest of many vectors, in a few clusters of them (an inverted file).

Vectors are sorted by cluster (k-means; Jégou et al. 2011, IEEE TPAMI 33:117). A query compares
itself with the centres, then exactly with the vectors of the nearest clusters. What was added since
the clusters were built waits in a tail that every query looks through, so an addition is found at
once and moves nothing. A filter is a mask over all vectors. If few pass it, these are compared
exactly, without clusters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]  # (N, dimensions), rows of length 1

PROBED = 24  # clusters that a query looks into
_PER_CLUSTER = 1000
_SAMPLE_PER_CLUSTER = 64  # vectors that place a centre
_ROUNDS = 8  # of k-means
_THINNED = 4  # times as many clusters as without a filter may be looked into, at least
_EXACT = 20_000  # so many vectors are compared in less than a millisecond
_TAIL = 20_000
_BLOCK = 4096


class Hits(NamedTuple):
    """The nearest vectors, the most similar first.

    Attributes:
        numbers: of the vectors, in the order in which they were added.
        similarity: their dot products with the query.
    """

    numbers: NDArray[np.intp]
    similarity: NDArray[np.float32]


class Index:
    """Vectors that can be searched while others are added.

    One thread adds, any number search: a search sees a vector whole or not at all.

    Args:
        vectors: that are there from the start.
    """

    def __init__(self, vectors: Vectors, seed: int = 0) -> None:
        self._dimensions, self._seed = vectors.shape[1], seed
        self._count = len(vectors)
        self._clusters = _Clusters(vectors, seed)
        self._tail = np.empty((_TAIL, self._dimensions), np.float32)
        self._tail_start = self._count

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be added."""
        return self._count - self._tail_start == _TAIL

    @property
    def is_due(self) -> bool:
        """Whether the tail is half full, so that another index should take this one's place."""
        return self._count - self._tail_start >= _TAIL // 2

    def add(self, vector: NDArray[np.float32]) -> int:
        """Add a vector; return its number.

        Raises:
            OverflowError: the tail is full.
        """
        at = self._count - self._tail_start
        if at == _TAIL:
            raise OverflowError("the tail of the index is full; rebuild it first")
        self._tail[at] = vector
        self._count += 1  # now it is seen
        return self._count - 1

    def take(self, numbers: NDArray[np.intp]) -> Vectors:
        """The vectors of these numbers."""
        old = numbers < self._tail_start
        taken = np.empty((len(numbers), self._dimensions), np.float32)
        taken[old] = self._clusters.take(numbers[old])
        taken[~old] = self._tail[numbers[~old] - self._tail_start]
        return taken

    def search(self, query: NDArray[np.float32], count: int, passes: NDArray[np.bool_]) -> Hits:
        """The `count` nearest vectors, or fewer if fewer pass.

        Args:
            query: (dimensions,), of length 1.
            passes: (N or fewer,), whether a vector may be found; those after its end may not.
        """
        numbers, similarity = self._clusters.search(query, count, passes[: self._tail_start])
        tail = np.flatnonzero(passes[self._tail_start :])
        if len(tail):
            numbers = np.concatenate([numbers, tail + self._tail_start])
            similarity = np.concatenate([similarity, self._tail[tail] @ query])
        return _best(numbers, similarity, count)


class _Clusters:
    """Vectors that stay as they are, sorted by cluster."""

    def __init__(self, vectors: Vectors, seed: int) -> None:
        self._centres = _centres(vectors, max(1, len(vectors) // _PER_CLUSTER), seed)
        assigned = _assign(vectors, self._centres)
        self._numbers = np.argsort(assigned, kind="stable")
        self._places = np.empty_like(self._numbers)
        self._places[self._numbers] = np.arange(len(vectors))
        self._vectors = vectors[self._numbers]
        self._starts = np.searchsorted(
            assigned[self._numbers], np.arange(len(self._centres) + 1)
        ).tolist()

    def take(self, numbers: NDArray[np.intp]) -> Vectors:
        return np.asarray(self._vectors[self._places[numbers]])

    def search(self, query: NDArray[np.float32], count: int, passes: NDArray[np.bool_]) -> Hits:
        passing = int(np.count_nonzero(passes))
        if passing <= _EXACT and passing > len(passes) // 8:
            kept = passes[self._numbers]
            return _best(self._numbers[kept], (self._vectors @ query)[kept], count)
        if passing <= _EXACT:
            numbers = np.flatnonzero(passes)
            return _best(numbers, self._vectors[self._places[numbers]] @ query, count)
        # A filter thins out every cluster, so more of them hold as many that pass.
        enough = PROBED * _PER_CLUSTER * min(1.0, _THINNED * passing / len(passes))
        chosen, similar, found = [], [], 0
        for cluster in np.argsort(-(self._centres @ query)).tolist():
            part = slice(self._starts[cluster], self._starts[cluster + 1])
            numbers, similarity = self._numbers[part], self._vectors[part] @ query
            if passing < len(passes):
                kept = passes[numbers]
                numbers, similarity = numbers[kept], similarity[kept]
            chosen.append(numbers)
            similar.append(similarity)
            found += len(numbers)
            if found >= enough:
                break
        return _best(np.concatenate(chosen), np.concatenate(similar), count)


def _best(numbers: NDArray[np.intp], similarity: NDArray[np.float32], count: int) -> Hits:
    if len(numbers) > count:
        kept = np.argpartition(-similarity, count)[:count]
        numbers, similarity = numbers[kept], similarity[kept]
    order = np.argsort(-similarity, kind="stable")
    return Hits(numbers[order], similarity[order])


def _centres(vectors: Vectors, count: int, seed: int) -> Vectors:
    """Directions of `count` clusters, by spherical k-means on a sample (Dhillon and Modha 2001)."""
    if not len(vectors):
        return np.zeros((1, vectors.shape[1]), np.float32)
    rng = np.random.default_rng(seed)
    sample = vectors[rng.permutation(len(vectors))[: count * _SAMPLE_PER_CLUSTER]]
    centres = sample[:count].copy()
    for _ in range(_ROUNDS):
        assigned = _assign(sample, centres)
        order = np.argsort(assigned, kind="stable")
        there, starts = np.unique(assigned[order], return_index=True)
        sums = np.add.reduceat(sample[order], starts, axis=0)
        centres[there] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centres


def _assign(vectors: Vectors, centres: Vectors) -> NDArray[np.intp]:
    """The number of the nearest centre of each vector."""
    blocks = [
        (vectors[start : start + _BLOCK] @ centres.T).argmax(axis=1)
        for start in range(0, len(vectors), _BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.empty(0, np.intp)

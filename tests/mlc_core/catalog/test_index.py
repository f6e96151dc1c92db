"""Claims about the index: what it finds is what a plain comparison of all vectors finds."""

import numpy as np
import pytest

from mlc_core.catalog.index import Index

DIMENSIONS, COUNT = 32, 60_000


def units(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    """Vectors in groups, as those of photos are."""
    rng = np.random.default_rng(0)
    groups = units(rng.standard_normal((300, DIMENSIONS)))
    return units(
        groups[rng.integers(0, 300, COUNT)] + 0.15 * rng.standard_normal((COUNT, DIMENSIONS))
    )


@pytest.fixture(scope="module")
def index(vectors):
    return Index(vectors)


def exact(vectors, query, count, passes):
    numbers = np.flatnonzero(passes)
    return set(numbers[np.argsort(-(vectors[numbers] @ query))[:count]].tolist())


@pytest.mark.parametrize("share", [1.0, 0.6, 0.05, 0.0001])
def test_it_finds_the_nearest_that_pass(index, vectors, share):
    rng = np.random.default_rng(1)
    passes = rng.random(COUNT) < share
    hits, wanted = 0, 0
    for query in vectors[rng.integers(0, COUNT, 50)]:
        found = index.search(query, 10, passes)
        assert passes[found.numbers].all()
        assert (np.diff(found.similarity) <= 0).all()
        best = exact(vectors, query, 10, passes)
        hits, wanted = hits + len(best & set(found.numbers.tolist())), wanted + len(best)
    assert hits >= 0.95 * wanted
    assert share > 0.5 or hits == wanted  # few are compared one by one


def test_what_is_added_is_found_at_once(vectors):
    index = Index(vectors[:5000])
    number = index.add(vectors[5000])
    assert number == 5000
    assert index.search(vectors[5000], 1, np.ones(5001, bool)).numbers.tolist() == [5000]
    assert 5000 not in index.search(vectors[5000], 3, np.ones(5000, bool)).numbers
    np.testing.assert_array_equal(index.take(np.array([5000, 7])), vectors[[5000, 7]])


def test_an_empty_index_finds_nothing_and_takes_what_comes():
    index = Index(np.empty((0, 4), np.float32))
    query = np.array([1, 0, 0, 0], np.float32)
    assert len(index.search(query, 5, np.empty(0, bool)).numbers) == 0
    index.add(query)
    assert index.search(query, 5, np.ones(1, bool)).numbers.tolist() == [0]

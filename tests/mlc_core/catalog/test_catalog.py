"""Claims about a catalogue, wherever it is: in a directory, in PostgreSQL, in shards of it."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import numpy as np
import pytest
from products import EMBEDDING, ids, product

from mlc_core.catalog.filters import Filter
from mlc_core.catalog.opening import found, indexing, open_catalog
from mlc_core.spec import Embedding

OTHER = Embedding(8, "b" * 64)

# Texts, numbers and truth values that look alike, and texts that a database may take for its own.
VALUES = [
    True, False, "true", "false", 1, 1.0, 0, 0.0, -0.0, 0.1, -3.5, "1", "1.0", "0", "", "Red",
    "red", "Ünï", "null", "'; DROP TABLE mlc_catalogues; --", '"', "\\", "\\0000", "\0", "\ud800",
    "%s", "{}", 2**53, 2.0**53, 2**60, 1e16, 1e23, 1e300, 5e-324, -1e300,
]  # fmt: skip
NAMES = ["price", "color", "in stock", "a'b", 'a"b', "%s", "a\\b", "\0", "{}"]


@pytest.fixture(params=["directory", "postgres", "shards"])
def where(request, tmp_path):
    """Where a catalogue may be; there is none yet."""
    if request.param == "directory":
        return str(tmp_path)
    urls = request.getfixturevalue("databases")
    return urls[0] if request.param == "postgres" else " ".join(urls)


@pytest.fixture
def catalog(where):
    with closing(open_catalog(where, EMBEDDING)) as catalog:
        yield catalog


def test_the_most_similar_come_first_with_what_is_known_of_them(catalog):
    products = [product(str(n), n, price=float(n)) for n in range(50)]
    catalog.put(products)
    hits = catalog.search(products[7].vector, 3)
    assert hits[0][:1] + hits[0][2:] == ("7", {"color": "Red"}, {"price": 7.0})
    assert hits[0].similarity == pytest.approx(1, abs=2e-3)
    assert ids(catalog, products[7].vector, 50, "price<5") == [
        hit.id for hit in catalog.search(products[7].vector, 50) if int(hit.id) < 5
    ]
    assert ids(catalog, products[7].vector, 60) == [
        str(n) for n in sorted(range(50), key=lambda n: -(products[n].vector @ products[7].vector))
    ]


def test_it_gives_back_what_was_put(catalog):
    values = {f"attribute {n}": value for n, value in enumerate(VALUES)}
    shirt = product("shirt \0 \\ ü", 1)._replace(attributes=values, photo=b"\0\xff")
    catalog.put([shirt, product("other", 2)])
    (got,) = catalog.get([shirt.id, "nobody"]).values()
    assert got._replace(vector=None) == shirt._replace(vector=None)
    assert [type(each) for each in got.attributes.values()] == [type(each) for each in VALUES]
    assert got.vector.dtype == np.float32
    np.testing.assert_allclose(got.vector, shirt.vector, atol=1e-3)


def test_a_product_that_is_replaced_is_found_where_it_is_now(catalog):
    old, new = product("a", 1), product("a", 2)
    catalog.put([old, product("b", 3)])
    catalog.put([new])
    assert ids(catalog, new.vector, 1) == ["a"]
    assert sorted(ids(catalog, old.vector)) == ["a", "b"]
    assert len(catalog) == 2


def test_the_last_of_two_products_with_one_id_counts(catalog):
    catalog.put([product("a", 1, price=1), product("b", 2), product("a", 3, price=2)])
    assert catalog.get(["a"])["a"].attributes == {"price": 2}
    assert len(catalog) == 2


def test_a_removed_product_is_found_no_more(catalog):
    catalog.put([product("a", 1), product("b", 2), product("c", 3)])
    assert catalog.remove(["c", "x", "a", "c"]) == ["c", "a"]
    assert ids(catalog, product("a", 1).vector) == ["b"]
    assert catalog.get(["a", "b"]).keys() == {"b"}
    assert catalog.remove(["\0"]) == []


def test_an_empty_catalogue_finds_nothing(catalog):
    assert ids(catalog, product("a", 1).vector) == []
    assert (len(catalog), catalog.get(["a"]), catalog.written_at()) == (0, {}, None)


def test_a_label_wins_over_an_attribute_of_its_name(catalog):
    catalog.put([product("a", 1, color="Rot")])
    assert ids(catalog, product("a", 1).vector, 10, "color=Red") == ["a"]
    assert ids(catalog, product("a", 1).vector, 10, "color=Rot") == []


def test_a_write_and_a_removal_say_when_they_were(catalog):
    before = time.time()
    catalog.put([product("a", 1), product("b", 2)])
    written = catalog.written_at()
    assert before - 1 < written < time.time() + 1
    catalog.remove(["nobody"])
    assert catalog.written_at() == written
    catalog.remove(["a"])
    assert catalog.written_at() > written


def test_a_write_that_fails_leaves_nothing(catalog):
    with pytest.raises(TypeError):
        catalog.put([product("a", 1), product("b", 2, price=object())])
    assert len(catalog) == 0
    catalog.put([product("c", 3)])
    assert len(catalog) == 1


def test_another_start_finds_the_same(catalog, where):
    catalog.put([product(str(n), n) for n in range(30)])
    catalog.remove(["3"])
    vector = product("9", 9).vector
    with closing(open_catalog(where, EMBEDDING)) as again:
        assert ids(again, vector) == ids(catalog, vector)


def test_who_follows_finds_what_another_process_wrote(catalog, where):
    with closing(open_catalog(where, EMBEDDING)) as other:
        catalog.put([product("a", 1), product("b", 2)])
        catalog.remove(["b"])
        other.follow()
        assert ids(other, product("a", 1).vector) == ["a"]


def test_threads_search_while_one_writes(catalog):
    products = [product(str(n), n) for n in range(200)]
    catalog.put(products[:20])

    def wrong(n):
        return [m for m in range(n % 20, 20) if ids(catalog, products[m].vector, 1) != [str(m)]]

    with ThreadPoolExecutor(16) as pool:
        searches = [pool.submit(wrong, n) for n in range(32)]
        for start in range(20, 200, 20):
            catalog.put(products[start : start + 20])
        assert [each.result() for each in searches] == [[]] * 32
    assert len(catalog) == 200


def test_a_new_catalogue_is_found_once_it_is_whole(where):
    with suppress(InterruptedError), indexing(where, EMBEDDING) as products:
        products.put([product("a", 1)])
        raise InterruptedError
    assert found(where) == []
    with indexing(where, EMBEDDING) as products:
        assert products.get(["a", "b"]).keys() == {"a"}
        products.put([product("b", 2)])
    assert found(where) == [EMBEDDING]
    with closing(open_catalog(where, EMBEDDING)) as catalog:
        assert ids(catalog, product("a", 1).vector) == ["a", "b"]


def test_a_catalogue_that_is_there_is_brought_up_to_date(catalog, where):
    catalog.put([product("a", 1)])
    with indexing(where, EMBEDDING) as products:
        assert len(products) == 1
        products.put([product("b", 2)])
    catalog.follow()
    assert sorted(ids(catalog, product("a", 1).vector)) == ["a", "b"]


def test_each_model_has_a_catalogue_of_its_own(where):
    for embedding in (OTHER, EMBEDDING):
        open_catalog(where, embedding).close()
    assert found(where) == [EMBEDDING, OTHER]


@pytest.fixture(scope="module")
def known():
    """Products with attributes of all sorts."""
    rng = random.Random(0)
    return [
        product(str(n), n)._replace(
            labels={"color": rng.choice(["Red", "Blue", "true"])},
            attributes={name: rng.choice(VALUES) for name in rng.sample(NAMES, 5)},
        )
        for n in range(200)
    ]


def test_a_filter_means_the_same_everywhere(catalog, known):
    """It passes what it passes of the products one by one."""
    catalog.put(known)
    rng = random.Random(1)
    numbers = [float(each) for each in VALUES if type(each) in {int, float}]
    for _ in range(150):
        filters = []
        for _ in range(rng.choice([1, 1, 2, 3])):
            relation = rng.choice(["=", "!=", "<", "<=", ">", ">="])
            value = rng.choice(VALUES if relation in {"=", "!="} else numbers)
            value = float(value) if type(value) is int else value
            filters.append(Filter(rng.choice([*NAMES, "nothing"]), relation, value))
        wanted = {
            each.id
            for each in known
            if all(f.passes({**each.attributes, **each.labels}.get(f.name)) for f in filters)
        }
        hits = catalog.search(known[0].vector, len(known), filters)
        assert {hit.id for hit in hits} == wanted, filters


def test_a_picture_stays_until_another_comes_or_the_product_leaves(catalog):
    shirt = product("shirt", 1)
    catalog.put([shirt._replace(picture=b"first"), product("bare", 2)])
    catalog.put([shirt])
    assert catalog.picture("shirt") == b"first"
    assert catalog.picture("bare") is None
    assert catalog.get(["shirt"])["shirt"].picture == b""
    catalog.put([shirt._replace(picture=b"second")])
    assert catalog.picture("shirt") == b"second"
    catalog.remove(["shirt"])
    assert catalog.picture("shirt") is None

"""Claims about the store of a catalogue."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from mlc_core.catalog.catalog import CatalogError, Product
from mlc_core.catalog.store import Store
from mlc_core.spec import Embedding

EMBEDDING = Embedding(8, "a" * 64)


def product(name, seed=0, **attributes):
    vector = np.random.default_rng(seed).standard_normal(8).astype(np.float32)
    return Product(name, vector / np.linalg.norm(vector), {"color": "Red"}, attributes)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "catalogue.db", EMBEDDING)
    yield store
    store.close()


def test_it_holds_what_was_put(store):
    shirt = product("shirt 1", price=9.5, in_stock=True, brand="Ünïcode")
    store.put([shirt])
    (change,) = store.changes()
    assert change.id == "shirt 1"
    assert change.product.labels == {"color": "Red"}
    assert change.product.attributes == {"price": 9.5, "in_stock": True, "brand": "Ünïcode"}
    np.testing.assert_allclose(change.product.vector, shirt.vector, atol=1e-3)


def test_who_follows_sees_the_last_write_of_each_product(store):
    store.put([product("a"), product("b"), product("c")])
    seen = store.changes()[-1].number
    store.put([product("b", seed=1, price=3)])
    assert store.remove(["a", "nobody"]) == ["a"]
    changes = list(store.changes(after=seen))
    assert [(each.id, each.product is None) for each in changes] == [("b", False), ("a", True)]
    assert len(store) == 2
    assert list(store.changes(after=changes[-1].number)) == []


def test_another_process_sees_a_write_at_once(store, tmp_path):
    other = Store(tmp_path / "catalogue.db", EMBEDDING)
    store.put([product("a")])
    assert [each.id for each in other.changes()] == ["a"]
    other.put([product("b")])
    assert [each.id for each in store.changes()] == ["a", "b"]
    other.close()


def test_a_catalogue_of_another_model_is_refused(store, tmp_path):
    store.put([product("a")])
    with pytest.raises(CatalogError, match="indexed by another model"):
        Store(tmp_path / "catalogue.db", Embedding(8, "b" * 64))


def test_what_is_no_catalogue_is_refused(tmp_path):
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"\xff\xd8" * 1000)
    with pytest.raises(CatalogError, match="is no catalogue"):
        Store(file, EMBEDDING)


def test_a_write_that_fails_leaves_nothing(store):
    with pytest.raises(TypeError):
        store.put([product("a"), product("b", price=object())])
    assert len(store) == 0
    store.put([product("c")])


def test_no_acknowledged_write_is_lost_when_the_process_is_killed(tmp_path):
    script = textwrap.dedent("""
        import sys
        import numpy as np
        from pathlib import Path
        from mlc_core.catalog.store import Product, Store
        from mlc_core.spec import Embedding
        store = Store(Path(sys.argv[1]), Embedding(8, "a" * 64))
        for n in range(10**6):
            store.put([Product(str(n), np.ones(8, np.float32), {}, {})])
            print(n, flush=True)
    """)
    file = tmp_path / "catalogue.db"
    with subprocess.Popen([sys.executable, "-c", script, file], stdout=subprocess.PIPE) as writer:
        for _ in range(50):
            acknowledged = int(writer.stdout.readline())
        writer.kill()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
    store = Store(file, EMBEDDING)
    ids = {change.id for change in store.changes()}
    assert {str(n) for n in range(acknowledged + 1)} <= ids
    store.close()

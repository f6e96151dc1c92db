"""Claims about a catalogue in one process that others need not keep; see test_catalog."""

import threading

import pytest
from products import EMBEDDING, ids, product

from mlc_core.catalog import index as index_module
from mlc_core.catalog.catalog import CatalogError
from mlc_core.catalog.local import LocalCatalog
from mlc_core.spec import Embedding


@pytest.fixture
def catalog(tmp_path):
    catalog = LocalCatalog(tmp_path / "catalogue.db", EMBEDDING)
    yield catalog
    catalog.close()


def test_who_does_not_follow_finds_nothing_of_another_process(catalog, tmp_path):
    other = LocalCatalog(tmp_path / "catalogue.db", EMBEDDING)
    catalog.put([product("a", 1)])
    assert ids(other, product("a", 1).vector) == []
    other.follow()
    assert ids(other, product("a", 1).vector) == ["a"]
    other.close()


def test_a_catalogue_of_another_model_is_refused(catalog, tmp_path):
    with pytest.raises(CatalogError, match="indexed by another model"):
        LocalCatalog(tmp_path / "catalogue.db", Embedding(16, "b" * 64))


def test_nothing_is_lost_while_the_index_is_rebuilt(catalog, monkeypatch):
    monkeypatch.setattr(index_module, "_TAIL", 200)
    done = threading.Event()
    vectors = {n: product(str(n), n).vector for n in range(3000)}
    missed = []

    def search():
        while not done.is_set():
            n = len(catalog) - 1
            if n >= 0 and ids(catalog, vectors[n], 1) != [str(n)]:
                missed.append(n)

    thread = threading.Thread(target=search)
    thread.start()
    for start in range(0, 3000, 50):
        catalog.put([product(str(n), n) for n in range(start, start + 50)])
    done.set()
    thread.join()
    assert not missed
    for n in (0, 150, 1999, 2999):
        assert ids(catalog, vectors[n], 1) == [str(n)]
    assert len(catalog) == 3000

"""Claims about PostgreSQL that other catalogues need not keep; see test_catalog."""

import re
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import quote

import psycopg
import pytest
from products import EMBEDDING, ids, product

from mlc_core.catalog import postgres
from mlc_core.catalog.catalog import CatalogError
from mlc_core.catalog.opening import found, indexing, open_catalog


@pytest.fixture
def url(databases):
    """A schema without tables."""
    return databases[0]


@pytest.fixture
def catalog(url):
    with closing(open_catalog(url, EMBEDDING)) as catalog:
        yield catalog


def asked(url, statement):
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()


def indexes(url):
    rows = asked(url, "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema()")
    return sorted(re.search(r" \(+(\w+)", row[0])[1] for row in rows)


def many_searches(catalog):
    barrier = threading.Barrier(8)

    def search():
        barrier.wait()
        return ids(catalog, product("a", 1).vector, 1)

    with ThreadPoolExecutor(8) as pool:
        return [each.result() for each in [pool.submit(search) for _ in range(8)]]


def test_a_lost_connection_is_replaced(catalog, url):
    catalog.put([product("a", 1)])
    for _ in range(3):
        assert many_searches(catalog) == [["a"]] * 8
        lost = asked(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mlc'",
        )
        assert (True,) in lost
        assert ids(catalog, product("a", 1).vector) == ["a"]
        catalog.put([product("a", 1)])


def test_processes_that_start_together_make_one_catalogue_in_an_empty_database(url):
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    url = url.replace("@/postgres", "@/empty").partition("&")[0]
    barrier = threading.Barrier(8)

    def start(n):
        barrier.wait()
        if n % 2:
            with indexing(url, EMBEDDING) as products:
                products.put([product(str(n), n)])
        else:
            open_catalog(url, EMBEDDING).close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(start, range(8)))
    assert found(url) == [EMBEDDING]
    with closing(open_catalog(url, EMBEDDING)) as catalog:
        assert sorted(ids(catalog, product("a", 1).vector)) == ["1", "3", "5", "7"]


def test_a_catalogue_that_is_being_built_is_searched_and_gets_its_index_at_the_end(url):
    with indexing(url, EMBEDDING) as products:
        products.put([product("a", 1, price=9.5, brand="A")])
        assert indexes(url) == ["digest", "id", "id"]
        with closing(open_catalog(url, EMBEDDING)) as catalog:
            assert found(url) == []
            catalog.put([product("b", 2)])
            assert ids(catalog, product("a", 1).vector) == ["a", "b"]
    assert indexes(url) == ["comparable", "digest", "id", "id", "numbers", "vector", "written"]
    assert found(url) == [EMBEDDING]


def test_few_that_pass_are_found_though_a_scan_of_the_index_ends_before(catalog, url, monkeypatch):
    """So are more products than pgvector lists in one go."""
    query = product("0", 0).vector
    catalog.put([product(str(n), n, price=n) for n in range(1200)])
    far = ids(catalog, query, 1200)[-1]
    stingy = url + quote(" -c hnsw.max_scan_tuples=1 -c seq_page_cost=10000")
    with closing(open_catalog(stingy, EMBEDDING)) as few:
        for exact in (postgres._EXACT, 0):  # as many as expected, and more
            monkeypatch.setattr(postgres, "_EXACT", exact)
            assert ids(few, query, 5, f"price>={far}", f"price<={far}") == [far]
        assert len(set(ids(few, query, 1100))) == 1100


def test_a_catalogue_is_opened_where_nothing_may_be_written(catalog, url):
    catalog.put([product("a", 1)])
    replica = url + quote(" -c default_transaction_read_only=on")
    with closing(open_catalog(replica, EMBEDDING)) as reader:
        assert ids(reader, product("a", 1).vector) == ["a"]
        with pytest.raises(CatalogError, match="read-only transaction"):
            reader.put([product("b", 2)])
    assert found(replica) == [EMBEDDING]


def test_a_right_that_is_missing_is_named(url):
    with psycopg.connect(url) as connection:
        connection.execute("CREATE ROLE guest LOGIN")
    guest = url.replace("//postgres", "//guest")
    with pytest.raises(CatalogError, match="its user the right to create tables"):
        open_catalog(guest, EMBEDDING)
    assert found(guest) == []
    with psycopg.connect(url) as connection:
        connection.execute("DROP ROLE guest")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://shop:s3cret@127.0.0.1:1/shop", "PostgreSQL at 127.0.0.1:1/shop: .*refused"),
        ("postgresql://shop:s3/cret@127.0.0.1:1/shop", "can't be read; it is as postgresql://"),
        ("postgresql://shop:s3@cret@127.0.0.1:1/shop", "can't be read"),
        ("postgresql://shop:1/s3cret@127.0.0.1:1/shop", "can't be read"),
        ("postgresql://shop:s3cret%zz@127.0.0.1:1/shop", "can't be read"),
        ("postgresql://shop:s3cret@[::1/shop", "can't be read"),
        ("postgresql://127.0.0.1:1/shop?password=s3cret", "check that it runs"),
        ("postgresql://a/shop postgresql://a/shop", "needs a URL of its own"),
        ("postgresql://shop:s3cret@a/shop s3cret", "needs a URL of its own"),
    ],
)
def test_what_can_not_be_reached_is_told_without_its_password(url, says):
    for use in (found, lambda where: open_catalog(where, EMBEDDING)):
        with pytest.raises(CatalogError, match=says) as caught:
            use(url)
        told = "".join(traceback.format_exception(caught.value, chain=True))
        assert "cret" not in told.replace(url, "")


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "mlc_core.catalog.postgres", raising=False)
    with pytest.raises(CatalogError, match=r"pip install 'multi-label-classifier\[postgres\]'"):
        found("postgres://127.0.0.1/shop")


def test_a_directory_needs_no_psycopg():
    code = "import sys, mlc_core.catalog.opening; sys.exit('psycopg' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

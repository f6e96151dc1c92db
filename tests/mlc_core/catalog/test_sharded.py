"""Claims about shards that other catalogues need not keep; see test_catalog."""

from contextlib import closing

from products import EMBEDDING, ids, product

from mlc_core.catalog.opening import found, indexing, open_catalog


def test_each_server_has_a_part_of_the_products(databases):
    where = " ".join(databases)
    with closing(open_catalog(where, EMBEDDING)) as catalog:
        catalog.put([product(str(n), n) for n in range(200)])
        for url in databases:
            with closing(open_catalog(url, EMBEDDING)) as shard:
                assert 60 < len(shard) < 140
        assert len(catalog) == 200
        nearest = ids(catalog, product("7", 7).vector, 5)
        assert nearest[0] == "7"
        catalog.remove(["7"])
        assert ids(catalog, product("7", 7).vector, 4) == nearest[1:]


def test_another_process_finds_a_product_in_the_same_shard(databases):
    """The hash of an id is the same in every process and version."""
    with closing(open_catalog(" ".join(databases), EMBEDDING)) as catalog:
        catalog.put([product(name, 1) for name in ("shirt", "trousers", "Hemd", "Ünï")])
    with closing(open_catalog(databases[0], EMBEDDING)) as first:
        assert sorted(ids(first, product("", 1).vector)) == ["shirt", "trousers", "Ünï"]


def test_a_catalogue_is_found_when_all_its_shards_are_whole(databases):
    with indexing(databases[0], EMBEDDING) as products:
        products.put([product("a", 1)])
    assert found(databases[0]) == [EMBEDDING]
    assert found(" ".join(databases)) == []

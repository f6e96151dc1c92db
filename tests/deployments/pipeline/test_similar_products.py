"""Claims about the deployment of similar products, on real catalogues, without a cluster."""

import json

import numpy as np
import pytest
from recording import Recording

from deployments.errors import CatalogUnready, ProductUnknown, Unavailable
from deployments.messages import Change, Embedded, Search
from deployments.pipeline import similar_products
from deployments.pipeline.similar_products import SimilarProducts
from deployments.settings import Settings
from deployments.telemetry.catalogue import CATALOG_WRITES
from mlc_core.catalog.filters import parse_filter
from mlc_core.catalog.opening import indexing
from mlc_core.spec import Embedding
from samples.garments import as_file
from samples.photos import garment

OLD, NEW = "a" * 64, "b" * 64
PHOTO = as_file(garment())


def embedded(seed, digest=OLD, category="Tshirts"):
    vector = np.random.default_rng(seed).standard_normal(8)
    return Embedded(digest, (vector / np.linalg.norm(vector)).tolist(), {"category": category})


def added(name, seed, digest=OLD, **attributes):
    return Change(name, embedded(seed, digest), PHOTO, attributes or None)


@pytest.fixture
def place(tmp_path):
    return tmp_path


@pytest.fixture
async def similar(place, monkeypatch):
    monkeypatch.setattr(similar_products, "_LOOK_EVERY_S", 0)
    return SimilarProducts(Settings(catalog=str(place)), Recording())


async def found(similar, seed, digest=OLD, count=10, filters=()):
    search = Search(embedded(seed, digest), "", count, [parse_filter(text) for text in filters])
    return [hit["id"] for hit in json.loads(await similar.search(search))]


async def test_the_first_product_begins_a_catalogue(similar):
    assert await similar.change([added("a", 1, price=5), added("b", 2, price=9)]) == ["added"] * 2
    assert (await found(similar, 1))[0] == "a"
    assert await found(similar, 1, filters=["price>6"]) == ["b"]


async def test_what_a_change_does_not_name_stays(similar):
    await similar.change([added("a", 1, price=5)])
    assert await similar.change([Change("a", attributes={"price": 7.0})]) == ["changed"]
    assert await similar.change([Change("a", embedded(2), PHOTO)]) == ["replaced"]
    assert json.loads(await similar.get("a")) == {
        "id": "a",
        "labels": {"category": "Tshirts"},
        "attributes": {"price": 7.0},
    }
    assert (await similar.picture("a"))[8:12] == b"WEBP"


async def test_a_product_that_is_not_there_is_named(similar):
    await similar.change([added("a", 1)])
    outcomes = await similar.change([
        Change("a", removes=True),
        Change("x", removes=True),
        Change("y", attributes={"price": 1.0}),
    ])  # fmt: skip
    assert outcomes[0] == "removed"
    assert [type(each) for each in outcomes[1:]] == [ProductUnknown] * 2
    assert "'y'" in str(outcomes[2])
    assert isinstance(await similar.get("a"), ProductUnknown)
    assert isinstance(await similar.search(Search(None, "a", 5, ())), ProductUnknown)
    assert await found(similar, 1) == []


async def test_a_search_by_id_leaves_the_product_itself_out(similar):
    await similar.change([added(name, seed) for seed, name in enumerate("abcd")])
    hits = json.loads(await similar.search(Search(None, "b", 2, ())))
    assert len(hits) == 2
    assert "b" not in {hit["id"] for hit in hits}


async def test_a_model_without_a_catalogue_is_told_what_to_do(similar):
    await similar.change([added("a", 1)])
    refused = await similar.search(Search(embedded(1, NEW), "", 5, ()))
    assert isinstance(refused, CatalogUnready)
    assert "mlc index" in str(refused)
    (outcome,) = await similar.change([added("b", 2, NEW)])
    assert isinstance(outcome, CatalogUnready)


async def test_a_new_models_catalogue_is_found_beside_the_old_one(similar, place):
    await similar.change([added("a", 1, price=5)])
    with indexing(str(place), Embedding(8, NEW)) as products:
        catalog = similar._catalogs[OLD]
        products.put([catalog.get(["a"])["a"]])
        refused = await similar.search(Search(embedded(1, NEW), "", 5, ()))
        assert isinstance(refused, CatalogUnready)  # it is not whole yet
    assert await found(similar, 1, NEW) == ["a"]
    assert await found(similar, 1, OLD) == ["a"]


async def test_a_catalogue_that_is_gone_is_closed_once_nobody_searches_it(
    similar, place, monkeypatch
):
    await similar.change([added("a", 1)])
    (catalog,) = similar._catalogs.values()
    closed = []
    monkeypatch.setattr(catalog, "close", lambda: closed.append(catalog))
    for file in place.iterdir():
        file.unlink()
    similar._look_for_catalogs()
    assert (similar._catalogs, closed) == ({}, [])
    for _ in range(2):
        similar._look_for_catalogs()
    assert closed == [catalog]


async def test_attributes_change_and_products_leave_in_every_catalogue(similar, place):
    await similar.change([added("a", 1, price=5), added("b", 2)])
    with indexing(str(place), Embedding(8, NEW)) as products:
        products.put(list(similar._catalogs[OLD].get(["a", "b"]).values()))
    await found(similar, 1, NEW)
    await similar.change([Change("a", attributes={"price": 1.0}), Change("b", removes=True)])
    for digest in (OLD, NEW):
        assert await found(similar, 1, digest, filters=["price<2"]) == ["a"]


async def test_each_write_is_counted_by_its_outcome(similar):
    await similar.change([added("a", 1), Change("x", removes=True)])
    counted = [each["outcome"] for each in similar._recorder.labels(CATALOG_WRITES)]
    assert counted == ["added", "refused"]


async def test_a_place_that_is_missing_is_found_when_it_comes(place, monkeypatch):
    monkeypatch.setattr(similar_products, "_LOOK_EVERY_S", 0)
    similar = SimilarProducts(Settings(catalog=str(place / "later")), Recording())
    assert isinstance(await similar.search(Search(embedded(1), "", 5, ())), Unavailable)
    assert [type(each) for each in await similar.change([added("a", 1)])] == [Unavailable]
    assert isinstance(await similar.get("a"), Unavailable)
    (place / "later").mkdir()
    assert await similar.change([added("a", 1)]) == ["added"]
    assert await found(similar, 1) == ["a"]

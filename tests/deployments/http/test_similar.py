"""Claims about `/v1/similar` and `/v1/catalog`: real catalogues, a played way to the classifier."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from recording import Recording

from deployments.errors import Unavailable
from deployments.http.access import Access
from deployments.http.api import build_api
from deployments.http.disconnects import Disconnects
from deployments.http.photo_route import Telemetry
from deployments.messages import Trace
from deployments.pipeline.dispatcher import Dispatched
from deployments.pipeline.similar_products import SimilarProducts
from deployments.settings import Limits, RequestLogSettings, Settings
from deployments.telemetry.catalogue import PHOTOS_ANSWERED
from deployments.telemetry.request_log import RequestLog
from mlc_core.errors import UndecodablePhoto
from mlc_core.keys import add_key
from samples.garments import CATEGORIES, COLORS, as_file, draw_garment

DIGEST = "a" * 64
PHOTOS = {
    (category, color): as_file(draw_garment(category, color))
    for category in CATEGORIES
    for color in COLORS
}
NAMES = {photo: look for look, photo in PHOTOS.items()}
SHIRT, RED_SHIRT = PHOTOS["Tshirts", "Blue"], PHOTOS["Tshirts", "Red"]


class Pipeline:
    """Embeds each drawn photo by its category and colour, as a network would."""

    def __init__(self):
        self.choices = []

    def submit(self, data, choice, request_id):
        self.choices.append(choice)
        future = asyncio.get_running_loop().create_future()
        answer = self._answer(data) if data in NAMES else UndecodablePhoto("no photo")
        future.set_result(Dispatched(answer, "small_photos_queue", 0.0, Trace({}, 1, "fashion/2")))
        return future

    async def wait_for_all(self, submitted):
        return await asyncio.gather(*submitted, return_exceptions=True)

    @staticmethod
    def _answer(data):
        category, color = NAMES[data]
        vector = np.zeros(16)
        vector[list(CATEGORIES).index(category)] = 1
        vector[8 + list(COLORS).index(color)] = 0.5
        vector /= np.linalg.norm(vector)
        labels = {
            head: {"label": label, "confidence": 0.9, "alternatives": []}
            for head, label in (("color", color), ("category", category))
        }
        embedding = {"digest": DIGEST, "vector": vector.round(4).tolist()}
        model = {"name": "fashion", "version": "2"}
        return json.dumps({"model": model, "labels": labels, "embedding": embedding}).encode()


class Service:
    def __init__(self, place, keys):
        self.settings = Settings(
            limits=Limits(max_photo_bytes=20_000, max_request_photos=3, max_request_bytes=60_000),
            catalog=str(place),
        )
        self.recorder = Recording()
        log = RequestLog(RequestLogSettings(), logging.NullHandler(), self.recorder)
        self.pipeline = Pipeline()
        self.products = SimilarProducts(self.settings, self.recorder)
        access = Access(keys, self._one) if keys else None
        app = build_api(
            self.pipeline, self._describe, lambda: None, self.settings,
            Telemetry(self.recorder, log), Disconnects(), access, self.products,
        )  # fmt: skip
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://service")

    async def _one(self):
        return 1

    async def _describe(self):
        return {"name": "fashion", "heads": {"color": ["Red"], "category": ["Tshirts"]}}

    async def put(self, name, photo=None, **attributes):
        files = {"attributes": (None, json.dumps(attributes))} if attributes else {}
        if photo:
            files["image"] = ("photo.jpg", photo)
        return await self.client.put(f"/v1/catalog/{name}", files=files)

    async def search(self, photo=b"", **params):
        return await self.client.post("/v1/similar", content=photo, params=params)


@pytest.fixture
async def service(tmp_path):
    keys = tmp_path / "keys.json"
    expires = datetime.now(UTC) + timedelta(days=1)
    key = add_key(keys, "feed", 10_000, expires, writes=True)
    place = tmp_path / "catalogue"
    place.mkdir()
    service = Service(place, keys)
    service.keys = keys
    service.client.headers["Authorization"] = f"Bearer {key}"
    return service


@pytest.fixture
async def shop(service):
    for number, ((category, color), photo) in enumerate(PHOTOS.items()):
        await service.put(f"{color}-{category}", photo, price=number, in_stock=number % 2 == 0)
    return service


def ids(response):
    assert response.status_code == 200, response.text
    return [product["id"] for product in response.json()["products"]]


async def test_a_photo_finds_the_products_that_look_like_it(shop):
    response = await shop.search(RED_SHIRT, k=3)
    assert ids(response)[0] == "Red-Tshirts"
    body = response.json()
    assert body["model"] == {"name": "fashion", "version": "2"}
    assert "labels" not in body
    assert body["products"][0] == {
        "id": "Red-Tshirts",
        "similarity": 1.0,
        "labels": {"color": "Red", "category": "Tshirts"},
        "attributes": {"price": 5.0, "in_stock": False},
    }
    assert len(shop.pipeline.choices) == len(PHOTOS) + 1  # one pass for each photo


async def test_labels_come_from_the_same_pass(shop):
    before = len(shop.pipeline.choices)
    body = (await shop.search(RED_SHIRT, labels="true", top_k=3)).json()
    assert body["labels"]["category"]["label"] == "Tshirts"
    (choice,) = shop.pipeline.choices[before:]
    assert (choice.top_k, choice.embedding) == (3, True)


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        (["category=Ties"], lambda name, n: name.endswith("Ties")),
        (["color!=Red"], lambda name, n: not name.startswith("Red")),
        (["in_stock=true", "price<4"], lambda name, n: n % 2 == 0 and n < 4),
        (["price>=30"], lambda name, n: n >= 30),
        (["color=true"], lambda name, n: False),
        (["nothing=1"], lambda name, n: False),
    ],
)
async def test_filters_hold_for_every_product_that_is_found(shop, filters, passes):
    names = [f"{color}-{category}" for category, color in PHOTOS]
    wanted = {name for n, name in enumerate(names) if passes(name, n)}
    assert set(ids(await shop.search(SHIRT, k=100, filter=filters))) == wanted


async def test_a_product_finds_others_by_its_id(shop):
    found = ids(await shop.search(id="Red-Tshirts", k=7))
    assert found[0].endswith("Tshirts")
    assert "Red-Tshirts" not in found
    unknown = await shop.search(id="x")
    assert (unknown.status_code, unknown.json()["title"]) == (404, "Product unknown")


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"k": 0}, "k is '0'; it must be a whole number, 1 to 100"),
        ({"filter": "price"}, "'price' is no filter"),
        ({"filter": "price<cheap"}, "< compares numbers"),
        ({"filter": ["a=1"] * 21}, "send at most 20"),
        ({"top_k": 3}, "top_k is about labels; send labels=true"),
        ({"kk": 3}, "there is no query parameter 'kk'; did you mean k?"),
        ({"id": "a"}, "there are an id and a body"),
        ({"id": ""}, "id is empty"),
    ],
)
async def test_a_search_that_is_wrong_says_what_to_do(service, params, text):
    response = await service.search(SHIRT, **params)
    assert response.status_code == 400
    assert text in response.json()["detail"]


async def test_the_profile_of_a_key_is_for_labels_alone(shop, tmp_path):
    key = add_key(shop.keys, "reader", 10_000, datetime.now(UTC) + timedelta(days=1), profile="de")
    service = Service(tmp_path / "catalogue", shop.keys)
    service.client.headers["Authorization"] = f"Bearer {key}"
    for params in ({}, {"labels": "true"}, {"labels": "true", "profile": ""}):
        assert ids(await service.search(SHIRT, **params))
    assert [choice.profile for choice in service.pipeline.choices] == ["", "de", ""]


async def test_parameters_of_labels_at_their_defaults_ask_for_nothing(shop):
    defaults = {"top_k": 1, "precision": 0.0, "min_confidence": 0, "consistent": "true"}
    assert ids(await shop.search(SHIRT, **defaults, profile="")) == ids(await shop.search(SHIRT))


async def test_a_photo_that_is_none_is_refused_as_for_labels(shop):
    response = await shop.search(b"no photo")
    assert (response.status_code, response.json()["title"]) == (422, "Undecodable photo")
    assert shop.recorder.labels(PHOTOS_ANSWERED)[-1] == {"route": "/v1/similar", "status": "422"}


async def test_a_product_is_added_changed_and_removed(service):
    assert (await service.put("a/1 é", SHIRT, price=5)).json() == {
        "id": "a/1 é",
        "outcome": "added",
    }
    changed = await service.client.put("/v1/catalog/a/1 é", json={"attributes": {"price": 6}})
    assert changed.json()["outcome"] == "changed"
    assert (await service.client.put("/v1/catalog/a/1 é", content=RED_SHIRT)).status_code == 200
    product = (await service.client.get("/v1/catalog/a/1 é")).json()
    assert product["attributes"] == {"price": 6.0}
    assert product["labels"]["color"] == "Red"
    picture = await service.client.get("/v1/pictures/a/1 é")
    assert picture.headers["content-type"] == "image/webp"
    assert (await service.client.delete("/v1/catalog/a/1 é")).json()["outcome"] == "removed"
    assert (await service.client.delete("/v1/catalog/a/1 é")).status_code == 404
    assert (await service.client.get("/v1/pictures/a/1 é")).status_code == 404


async def test_many_changes_travel_in_one_request(shop):
    changes = [
        {"id": "new", "image": "first", "attributes": {"price": 1, "brand": None}},
        {"id": "bad", "image": "second"},
        {"id": "Red-Ties", "remove": True},
        {"id": "Red-Tshirts", "attributes": {"price": 2.5}},
        {"id": "gone", "remove": True},
    ]
    files = {
        "changes": (None, json.dumps(changes)),
        "first": ("1", SHIRT),
        "second": ("2", b"no photo"),
    }
    response = await shop.client.post("/v1/catalog", files=files)
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [each.get("outcome", each.get("status")) for each in results] == [
        "added", 422, "removed", "changed", 404,
    ]  # fmt: skip
    assert [each["id"] for each in results] == ["new", "bad", "Red-Ties", "Red-Tshirts", "gone"]
    assert (await shop.client.get("/v1/catalog/new")).json()["attributes"] == {"price": 1.0}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"changes": []}, "length >= 1"),
        ({"changes": [{"id": ""}]}, "$.changes[0].id"),
        ({"changes": [{"id": "a"}]}, "neither image, attributes nor remove"),
        ({"changes": [{"id": "a", "remove": True, "attributes": {}}]}, "one or the other"),
        ({"changes": [{"id": "a", "remove": True}] * 2}, "2 changes of 'a'"),
        ({"changes": [{"id": "a", "image": "x"}]}, "in the field 'x', where there is none"),
        ({"changes": [{"id": "a", "attributes": {"no name": 1}}]}, "attributes"),
        ({"changes": [{"id": "a", "attributes": {"price": [1]}}]}, "got `array`"),
        ({"changes": [{"id": "a", "prize": 1}]}, "unknown field `prize`"),
        ([], "Expected `object`"),
    ],
)
async def test_changes_that_are_wrong_say_where(service, body, text):
    response = await service.client.post("/v1/catalog", json=body)
    assert response.status_code == 400
    assert text in response.json()["detail"]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"picture": ("1", SHIRT)}, "the form has the field 'picture'"),
        ({"attributes": (None, "{}"), "image": ("1", b"x" * 20_001)}, "more than 20000 bytes"),
        ({"attributes": (None, "price=3")}, "wrong"),
    ],
)
async def test_a_product_that_is_wrong_says_so(service, files, text):
    response = await service.client.put("/v1/catalog/a", files=files)
    assert response.status_code in {400, 413}
    assert text in response.json()["detail"]


async def test_only_a_key_that_may_write_changes_the_catalogue(service, tmp_path):
    expires = datetime.now(UTC) + timedelta(days=1)
    reader = add_key(service.keys, "reader", 10_000, expires)
    keyless = Service(tmp_path / "catalogue", None)
    readers = Service(tmp_path / "catalogue", service.keys)
    readers.client.headers["Authorization"] = f"Bearer {reader}"
    for each, text in ((keyless, "keys_file"), (readers, "this key may not")):
        for response in (
            await each.put("a", SHIRT),
            await each.client.post("/v1/catalog", json={"changes": [{"id": "a", "remove": True}]}),
            await each.client.delete("/v1/catalog/a"),
        ):
            assert response.status_code == 403
            assert text in response.json()["detail"]
        assert (await each.search(SHIRT)).status_code == 503  # it may search: nothing is there
    nobody = await service.client.get("/v1/catalog", headers={"Authorization": "Bearer x"})
    assert nobody.status_code == 401


async def test_the_catalogue_is_described(shop):
    (catalogue,) = (await shop.client.get("/v1/catalog")).json()["catalogues"]
    assert (catalogue["embedding"], catalogue["products"]) == (DIGEST, len(PHOTOS))


async def test_without_a_replica_the_client_is_told_to_try_again(service, monkeypatch):
    async def lost(_):
        raise Unavailable("no replica that could answer")

    monkeypatch.setattr(service.products, "search", lost)
    response = await service.search(SHIRT)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")

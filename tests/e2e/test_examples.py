"""The examples of the contract are what the service answers."""

import json

import httpx
import pytest
from jsonschema import Draft202012Validator
from services import PROJECT

from deployments.http.openapi_examples import read_examples

SHIRT = (PROJECT / "samples/tshirt.jpg").read_bytes()
EXAMPLES = {each.name: each for each in read_examples()}
PHOTO = {"content": SHIRT}
RIGHT = {"color": "Pink", "master_category": "Apparel", "sub_category": "Topwear",
         "category": "Tshirts"}  # fmt: skip
SAID = json.dumps({"by": "example", "labels": RIGHT})
UNKNOWN = {"request_id": "form-7", "by": "example", "labels": {"color": "Pink"}}
REQUESTS = {
    "labels": PHOTO,
    "unsure": PHOTO | {"params": {"precision": 0.95}},
    "alternatives": PHOTO | {"params": {"top_k": 2}},
    "out-of-range": PHOTO | {"params": {"top_k": 21}},
    "no-photo": {"content": b"a dress, navy blue"},
    "truncated": {"content": SHIRT[:1000]},
    "two-photos": {"files": [("images", SHIRT), ("images", b"a dress, navy blue")]},
    "no-key": PHOTO,
    "similar": PHOTO | {"params": {"k": 2, "filter": ["in_stock=true", "price<50"]}},
    "similar-with-labels": PHOTO | {"params": {"k": 1, "labels": "true"}},
    "product": {},
    "unknown-product": {},
    "correction": {"files": {"image": ("a.jpg", SHIRT), "feedback": (None, SAID)}},
    "unknown-request": {"json": UNKNOWN},
    "alive": {},
    "ready": {},
}
IDS = {"product": "P00012", "unknown-product": "P99999"}


@pytest.fixture
def client(keyed, key):
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=keyed.url, timeout=30, trust_env=False, headers=headers) as client:
        yield client


def ask(client, name):
    example = EXAMPLES[name]
    if name == "no-key":
        del client.headers["Authorization"]
    path = example.path.replace("{id}", IDS.get(name, ""))
    response = client.request(example.method, path, **REQUESTS[name])
    assert response.status_code == int(example.status), response.text
    return response.json()


def assert_alike(real, shown):
    if isinstance(shown, dict):
        assert real.keys() == shown.keys()
        for name in real.keys() - {"request_id"}:
            assert_alike(real[name], shown[name])
    elif isinstance(shown, list):
        assert len(real) == len(shown)
        for one, other in zip(real, shown, strict=True):
            assert_alike(one, other)
    elif isinstance(shown, float):
        assert real == pytest.approx(shown, abs=0.002)
    else:
        assert real == shown


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_the_service_answers(client, name):
    assert_alike(ask(client, name), EXAMPLES[name].answer)


def test_the_contract_shows_every_example_and_each_fits_its_schema(client):
    contract = client.get("/openapi.json").json()
    shown = {}
    for path, item in contract["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            for status, response in operation["responses"].items():
                for media_type in response.get("content", {}).values():
                    schema = media_type.get("schema", {}) | {"components": contract["components"]}
                    for name, each in media_type.get("examples", {}).items():
                        Draft202012Validator(schema).validate(each["value"])
                        example = EXAMPLES[name]
                        assert (path, method, status) == (
                            example.path, example.method, example.status,
                        )  # fmt: skip
                        shown[name] = each["value"]
    assert shown == {name: each.answer for name, each in EXAMPLES.items()}

"""Keys and rates of a running service with two ingresses, the page with a key, and CORS."""

import math
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from contract import BATCH, CLASSIFY, LATER, ORIGIN, assert_problem
from photos import jpeg
from playwright.sync_api import expect
from services import PROJECT, wait_until

from mlc_core.keys import add_key, revoke_key

RATE, SECONDS = 40, 10


@pytest.fixture
def client(keyed):
    with httpx.Client(base_url=keyed.url, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def feed(keyed, keys_file):
    """A key whose answers have the words of a profile, once both ingresses take it."""
    key = add_key(keys_file, "feed", 100, LATER, profile="google")
    with httpx.Client(base_url=keyed.url, trust_env=False, headers=bearer(key)) as client:
        wait_until(
            lambda: {client.get("/v1/model").status_code for _ in range(6)} == {200},
            "both take the key", 10,
        )  # fmt: skip
    return key


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_the_api_needs_a_key_and_the_rest_has_its_switches(client, key):
    for request in (
        {"method": "POST", "url": CLASSIFY, "content": jpeg()},
        {"method": "POST", "url": BATCH, "files": {"images": jpeg()}},
        {"method": "GET", "url": "/v1/model"},
        {"method": "GET", "url": "/metrics"},
        {"method": "GET", "url": "/healthz"},
        {"method": "GET", "url": "/readyz"},
    ):
        response = client.request(**request)
        assert_problem(response, 401)
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert client.request(**request, headers=bearer(key)).status_code == 200
    for path in ("/", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_answers_have_the_words_of_the_profile_that_a_request_or_a_key_names(client, key, feed):
    photo = (PROJECT / "samples/tshirt.jpg").read_bytes()
    for who, query, category in (
        (feed, "", "Apparel & Accessories > Clothing > Shirts & Tops"),
        (key, "?profile=google", "Apparel & Accessories > Clothing > Shirts & Tops"),
        (feed, "?profile=", "Tshirts"),
        (key, "", "Tshirts"),
    ):
        for path, sent in (
            (CLASSIFY, {"content": photo}),
            (BATCH, {"files": [("images", photo)]}),
        ):
            answer = client.post(path + query, headers=bearer(who), **sent).json()
            labels = answer["results"][0]["labels"] if path == BATCH else answer["labels"]
            assert labels["category"]["label"] == category
            assert labels["color"]["label"] == "Red"
    refused = client.post(f"{CLASSIFY}?profile=gogle", content=photo, headers=bearer(key))
    assert_problem(refused, 400)
    assert "there is google" in refused.json()["detail"]
    model = client.get("/v1/model", headers=bearer(key)).json()
    assert "Apparel & Accessories > Shoes" in model["profiles"]["google"]["category"]


def test_similar_products_come_with_labels_in_a_merchants_own_words(client, key):
    photo = (PROJECT / "samples/tshirt.jpg").read_bytes()
    asked = "/v1/similar?labels=true&profile=google&min_confidence=0.9999"
    answer = client.post(asked, content=photo, headers=bearer(key))
    assert answer.status_code == 200
    category = answer.json()["labels"]["category"]
    assert category["label"] is None  # of too little confidence
    assert category["alternatives"][0]["label"].endswith("> Shirts & Tops")
    assert answer.json()["products"]


def test_a_page_of_a_listed_origin_may_call(client, key):
    preflight = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    for path in (CLASSIFY, BATCH):
        response = client.options(path, headers=preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == ORIGIN
    for headers in (bearer(key), {}):
        response = client.post(CLASSIFY, content=jpeg(), headers=headers | {"Origin": ORIGIN})
        assert response.status_code == (200 if headers else 401)
        assert response.headers["access-control-allow-origin"] == ORIGIN


def test_the_page_asks_for_a_key_and_works_with_it(keyed, key, browser):
    photo = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": jpeg()}
    page = browser.new_page()
    page.goto(keyed.url)
    status = page.locator("#status")
    expect(status).to_contain_text("This service asks for a key")
    page.get_by_label("Key").fill("wrong")
    page.get_by_role("button", name="Use it").click()
    expect(status).to_contain_text("does not take this key")
    page.set_input_files("input[type=file]", photo)
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Use it").click()
    expect(status).to_contain_text(" ms by model fashion")  # the photo that waited
    expect(page.locator("#key")).to_be_hidden()
    page.get_by_label("in the words of").select_option("google")
    expect(page.locator(".head").last).to_contain_text(" > ")
    expect(page.locator("#curl")).to_contain_text('-H "Authorization: Bearer $KEY"')
    page.reload()
    expect(page.locator(".head.waiting")).to_have_count(4)  # the tab still knows the key
    page.close()


def test_the_page_shows_the_words_of_the_model_although_the_key_has_a_profile(keyed, feed, browser):
    photo = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": jpeg()}
    page = browser.new_page()
    page.goto(keyed.url)
    page.set_input_files("input[type=file]", photo)
    wait_until(lambda: page.evaluate("refused !== null"), "the photo waits for the key", 10)
    page.get_by_label("Key").fill(feed)
    page.get_by_role("button", name="Use it").click()
    category = page.locator(".head").last
    expect(category.locator("li")).to_have_count(3)
    expect(category).not_to_contain_text(" > ")
    expect(page.locator("#curl")).to_contain_text("profile='")
    page.get_by_label("in the words of").select_option("google")
    expect(category).to_contain_text(" > ")
    page.close()


def test_both_ingresses_take_a_new_key_and_forget_a_revoked_one(client, keys_file):
    key = add_key(keys_file, "new", 1000, LATER)
    added = time.monotonic()

    def statuses():
        return {client.get("/v1/model", headers=bearer(key)).status_code for _ in range(6)}

    wait_until(lambda: statuses() == {200}, "both take the new key", 10)
    assert time.monotonic() - added < 10
    revoke_key(keys_file, "new")
    wait_until(lambda: statuses() == {401}, "both refuse the revoked key", 10)


def test_a_rate_holds_over_both_ingresses_within_20_percent(keyed, client, keys_file):
    key = add_key(keys_file, "slow", RATE, LATER)
    wait_until(
        lambda: {client.get("/v1/model", headers=bearer(key)).status_code for _ in range(6)}
        == {200},
        "both take the key", 10,
    )  # fmt: skip
    photo = jpeg()
    began = time.monotonic() + 7  # each has counted the ingresses by then, and no burst is left

    def ask(_):
        answers = []
        with httpx.Client(base_url=keyed.url, headers=bearer(key), trust_env=False) as session:
            while (at := time.monotonic() - began) < SECONDS:
                answers.append((math.floor(at), session.post(CLASSIFY, content=photo).status_code))
                time.sleep(8 / (2 * RATE))
        return answers

    with ThreadPoolExecutor(8) as pool:
        answers = [each for some in pool.map(ask, range(8)) for each in some if each[0] >= 0]
    assert {status for _, status in answers} == {200, 429}
    asked = Counter(second for second, _ in answers)  # a busy machine asks for less
    allowed = sum(min(RATE, count) for count in asked.values())
    taken = sum(status == 200 for _, status in answers)
    assert 0.8 * allowed <= taken <= 1.2 * RATE * SECONDS

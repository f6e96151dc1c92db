"""Similar products of a running service: searches, changes, faults, and the page."""

import csv
import signal
import threading

import httpx
import psutil
import pytest
from contract import same_labels
from photos import garment, jpeg
from playwright.sync_api import expect
from services import wait_until

from launcher.processes import processes
from samples.garments import as_file

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture
def client(keyed, key):
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=keyed.url, timeout=30, trust_env=False, headers=headers) as client:
        yield client


@pytest.fixture(scope="module")
def products(shop):
    with (shop / "products.csv").open(encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def search(client, photo, **params):
    response = client.post("/v1/similar", content=photo, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_photo_of_each_product_finds_it_first(client, shop, products):
    for name in list(products)[::10]:
        photo = (shop / products[name]["image"]).read_bytes()
        first, *others = search(client, photo, k=5)["products"]
        assert first["id"] == name
        assert first["similarity"] > 0.99
        assert [each["similarity"] for each in others] == sorted(
            (each["similarity"] for each in others), reverse=True
        )


def test_filters_take_the_tables_columns(client, shop, products):
    photo = (shop / products["P00000"]["image"]).read_bytes()
    filters = ["in_stock=true", "price<40", "brand!=Aster"]
    found = search(client, photo, k=100, filter=filters)["products"]
    wanted = {
        name
        for name, row in products.items()
        if row["in_stock"] == "true" and float(row["price"]) < 40 and row["brand"] != "Aster"
    }
    assert {each["id"] for each in found} == wanted
    assert len(wanted) < 100


def test_labels_are_those_of_the_route_for_labels(client):
    searched = search(client, jpeg(), labels="true", top_k=3)
    asked = client.post("/v1/classify", content=jpeg(), params={"top_k": 3}).json()
    assert same_labels(searched, asked)
    assert searched["model"] == asked["model"]


def test_both_ingresses_see_a_change_at_once(client):
    photo = as_file(garment(77))
    for turn in range(4):
        put = client.put("/v1/catalog/new", files={"image": photo, "attributes": (None, '{"a":1}')})
        assert put.json()["outcome"] == ("added" if turn == 0 else "replaced")
        assert search(client, photo, k=1, filter=["a=1"])["products"][0]["id"] == "new"
    assert client.delete("/v1/catalog/new").status_code == 200
    assert search(client, photo, filter=["a=1"])["products"] == []


def test_a_replica_that_is_killed_loses_no_acknowledged_write(keyed, client):
    acknowledged, over = [], threading.Event()
    photo = jpeg()

    def write():
        number = 0
        while not over.is_set():
            name = f"kept-{number}"
            put = client.put(f"/v1/catalog/{name}", content=photo)
            if put.status_code == 200:
                acknowledged.append(name)
                number += 1
            else:
                assert put.status_code in {503, 504}, put.text

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(2):
            before = len(acknowledged)
            wait_until(lambda: len(acknowledged) > before + 10, "writes", 30)  # noqa: B023
            killed = replicas(keyed)
            for replica in killed:
                replica.send_signal(signal.SIGKILL)
            wait_until(
                lambda: (now := replicas(keyed)) and not set(now) & set(killed),  # noqa: B023
                "another replica", 60,
            )  # fmt: skip
        before = len(acknowledged)
        wait_until(lambda: len(acknowledged) > before + 10, "writes go on", 60)
    finally:
        over.set()
        thread.join()
    for name in acknowledged:
        assert client.get(f"/v1/catalog/{name}").status_code == 200
    removed = client.post(
        "/v1/catalog", json={"changes": [{"id": name, "remove": True} for name in acknowledged]}
    ).json()["results"]
    assert {each["outcome"] for each in removed} == {"removed"}


def replicas(service):
    found = []
    for process in processes(service.port):
        try:
            if "ServeReplica:mlc:SimilarProducts" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture
def open_page(browser, keyed, key):
    contexts, faults = [], []

    def open_page(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.add_init_script(f'sessionStorage.setItem("key", "{key}")')
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(keyed.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def shirt(shop, products):
    name = "P00000"
    photo = (shop / products[name]["image"]).read_bytes()
    return {"name": "shirt.jpg", "mimeType": "image/jpeg", "buffer": photo}


@pytest.mark.parametrize("look", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_the_page_shows_products_with_their_pictures(open_page, shop, products, look, tmp_path):
    page = open_page(**look)
    page.set_input_files("input[type=file]", shirt(shop, products))
    cards = page.locator("#products li")
    expect(cards).to_have_count(10)
    expect(cards.first).to_contain_text("P00000")
    for number in range(10):
        picture = cards.nth(number).locator("img")
        wait_until(lambda: picture.evaluate("it => it.naturalWidth") == 60, "the picture", 10)  # noqa: B023
    expect(page.locator(".head")).to_have_count(4)
    page.screenshot(path=tmp_path / "similar.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= look["viewport"]["width"]


def test_chips_filter_and_the_keyboard_reaches_them(open_page, shop, products):
    page = open_page(**DESKTOP)
    page.set_input_files("input[type=file]", shirt(shop, products))
    found = page.locator("#found")
    expect(found).to_contain_text("The 10 most like the photo")
    page.get_by_label("Filter").fill("price<0")
    page.keyboard.press("Enter")
    expect(found).to_have_text("No product passes these filters.")
    chip = page.get_by_role("button", name="price<0")
    expect(chip).to_have_attribute("aria-pressed", "true")
    chip.focus()
    page.keyboard.press("Enter")
    expect(found).to_contain_text("The 10 most")
    page.get_by_label("Filter").fill("price is low")
    page.keyboard.press("Enter")
    expect(found).to_contain_text("is no filter")


def test_a_product_leads_to_others_like_it(open_page, shop, products):
    page = open_page(**DESKTOP)
    page.set_input_files("input[type=file]", shirt(shop, products))
    second = page.locator("#products li").nth(1)
    name = second.locator("b span").first.inner_text()
    second.get_by_role("button").click()
    expect(page.locator("#found")).to_contain_text(f"like {name}")
    expect(page.locator("#products")).not_to_contain_text(name)

"""The page at /, in a browser, as a person uses it."""

import json
import re
import subprocess

import httpx
import pytest
from photos import garment, jpeg
from playwright.sync_api import expect

from mlc_core.spec import HEADS
from samples.garments import as_file

DESKTOP = {"viewport": {"width": 1280, "height": 800}}
LOOKS = {
    "desktop-light": DESKTOP | {"color_scheme": "light"},
    "desktop-dark": DESKTOP | {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}


@pytest.fixture
def open_page(browser, url):
    """Opens the page; no script may fail on it, no request may leave for another host."""
    contexts, faults, asked = [], [], []

    def open_page(limit=None, **options):
        """With the limit of another service, if one is given: its name, and the most."""
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        if limit:
            name, most = limit
            text, replaced = re.subn(f'{name}="[0-9]+"', f'{name}="{most}"', httpx.get(url).text)
            assert replaced == 1
            page.route(f"{url}/", lambda route: route.fulfill(body=text, content_type="text/html"))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert asked
    assert all(address.startswith((f"{url}/", "blob:", "data:")) for address in asked)


def photo(name="tshirt.jpg"):
    return {"name": name, "mimeType": "image/jpeg", "buffer": jpeg(size_px=(450, 600))}


def assert_answered(page):
    expect(page.locator("#status")).to_contain_text(" ms by model fashion, version 2")
    heads = page.locator(".head")
    expect(heads).to_have_count(4)
    names = [head.replace("_", " ") for head in HEADS]
    assert [h.casefold() for h in heads.locator("h2").all_inner_texts()] == [
        name.casefold() for name in names
    ]
    for n in range(4):
        assert heads.nth(n).locator(".label").inner_text().strip()
        expect(heads.nth(n).locator("li")).to_have_count(3)


@pytest.mark.parametrize("look", LOOKS)
def test_a_chosen_photo_is_shown_with_its_labels(open_page, look, tmp_path):
    page = open_page(**LOOKS[look])
    page.screenshot(path=tmp_path / f"{look}-empty.png", full_page=True)
    page.set_input_files("input[type=file]", photo())
    assert_answered(page)
    expect(page.locator("#drop img")).to_be_visible()
    page.wait_for_function("document.querySelector('#drop img').naturalWidth === 450")
    page.screenshot(path=tmp_path / f"{look}-answer.png", full_page=True)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= LOOKS[look]["viewport"]["width"]


def test_a_dropped_photo_is_classified(open_page):
    page = open_page(**DESKTOP)
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "a.jpg", {type: "image/jpeg"}));
            return transfer;
        }""",
        list(jpeg()),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    assert_answered(page)


def test_a_file_that_is_no_photo_gets_a_clear_error_and_the_next_photo_its_labels(
    open_page, tmp_path
):
    page = open_page(**DESKTOP)
    page.set_input_files(
        "input[type=file]", {"name": "note.txt", "mimeType": "text/plain", "buffer": b"a dress"}
    )
    status = page.locator("#status")
    expect(status).to_have_class("fault")
    expect(status).to_contain_text("the bytes are not an image; formats taken: JPEG, PNG")
    expect(page.locator("#drop p")).to_contain_text("note.txt: no preview")
    page.screenshot(path=tmp_path / "error.png", full_page=True)
    page.set_input_files("input[type=file]", photo())
    assert_answered(page)


def test_the_same_photo_can_be_chosen_again(open_page):
    page = open_page(**DESKTOP)
    for _ in range(2):
        with page.expect_response("**/v1/classify*"):
            page.set_input_files("input[type=file]", photo())
        assert_answered(page)


def test_the_keyboard_reaches_the_choice(open_page):
    page = open_page(**DESKTOP)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"


def test_a_long_panorama_breaks_no_layout(open_page):
    page = open_page(**LOOKS["phone"])
    wide = {"name": "w.jpg", "mimeType": "image/jpeg", "buffer": jpeg(size_px=(1600, 100))}
    page.set_input_files("input[type=file]", wide)
    assert_answered(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert garment(size_px=(1600, 100)).size == (1600, 100)


def test_before_a_photo_the_heads_of_the_model_in_service_stand_there(open_page):
    page = open_page(**DESKTOP)
    expect(page.locator(".head.waiting h2")).to_have_count(len(HEADS))
    expect(page.locator("#lead")).to_contain_text("color, master category, sub category, category")


def test_on_a_phone_the_texts_are_for_touch(open_page):
    page = open_page(**LOOKS["phone"])
    expect(page.get_by_text("Tap to choose product photos")).to_be_visible()
    expect(page.get_by_text("Drop product photos here")).to_be_hidden()


def test_a_dropped_link_says_what_to_do(open_page):
    page = open_page(**DESKTOP)
    link = page.evaluate_handle(
        """() => {
            const transfer = new DataTransfer();
            transfer.setData("text/uri-list", "https://shop.example/shirt.jpg");
            return transfer;
        }"""
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": link})
    expect(page.locator("#status")).to_contain_text("Save the picture to this device")


def test_a_photo_that_the_browser_cant_show_is_explained_and_classified(open_page, tmp_path):
    page = open_page(**DESKTOP)
    tiff = {"name": "a.tiff", "mimeType": "image/tiff", "buffer": as_file(garment(), "TIFF")}
    page.set_input_files("input[type=file]", tiff)
    assert_answered(page)
    expect(page.locator("#drop p")).to_contain_text("a.tiff: no preview")
    page.screenshot(path=tmp_path / "tiff.png", full_page=True)


def test_offline_says_so(open_page):
    page = open_page(**DESKTOP)
    expect(page.locator(".head.waiting")).to_have_count(len(HEADS))
    page.context.set_offline(True)
    page.set_input_files("input[type=file]", photo())
    expect(page.locator("#status")).to_contain_text("This device is offline")
    page.context.set_offline(False)
    page.set_input_files("input[type=file]", photo())
    assert_answered(page)


@pytest.mark.parametrize("look", LOOKS)
def test_several_photos_are_answered_together_and_one_of_them_can_be_chosen(
    open_page, look, tmp_path
):
    page = open_page(**LOOKS[look])
    broken = {"name": "note.jpg", "mimeType": "image/jpeg", "buffer": b"a dress"}
    with page.expect_response("**/v1/classify/batch*") as answered:
        page.set_input_files("input[type=file]", [photo("one.jpg"), broken, photo("three.jpg")])
    assert answered.value.status == 200
    lines = page.locator("#photos li")
    expect(lines).to_have_count(3)
    expect(lines.nth(0)).to_contain_text("%")
    expect(lines.nth(1).locator(".fault")).to_contain_text("Unsupported format: the bytes are not")
    assert_answered(page)  # of the first
    page.screenshot(path=tmp_path / f"{look}-several.png", full_page=True)
    lines.nth(1).get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_class("fault")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= LOOKS[look]["viewport"]["width"]


SIZE_BYTES = len(photo()["buffer"])


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        (None, [32, 1]),
        (("data-max-photos", 15), [15, 15, 3]),
        (("data-max-bytes", 15 * (SIZE_BYTES + 1024)), [15, 15, 3]),
        (("data-max-bytes", 1), [1] * 33),
    ],
)
def test_more_photos_than_one_call_takes_are_sent_in_several(open_page, limit, sizes):
    page = open_page(limit, **DESKTOP)
    calls = []
    page.on("response", lambda each: calls.append(each) if "/batch" in each.url else None)
    page.set_input_files("input[type=file]", [photo(f"{n}.jpg") for n in range(33)])
    lines = page.locator("#photos li")
    expect(lines.nth(32)).to_contain_text("%")
    expect(lines.get_by_text("%")).to_have_count(33)
    assert [len(each.json()["results"]) for each in calls] == sizes


def test_answers_to_an_earlier_choice_do_not_replace_those_to_the_last(open_page):
    page = open_page(**DESKTOP)
    held = []

    def hold(route):
        held.append(route)

    page.route(re.compile(r"/batch\?top_k=4$"), hold)  # the call without a precision
    page.set_input_files("input[type=file]", [photo("one.jpg"), photo("two.jpg")])
    assert_answered(page)  # the first of them alone
    page.get_by_label("Only labels that are right").select_option("0.99")
    lines = page.locator("#photos li")
    expect(lines.nth(1)).to_contain_text("not sure")
    with page.expect_event("requestfinished", lambda each: "precision" not in each.url):
        held[0].fulfill(json={"results": [{"title": "Late", "detail": "answered late"}] * 2})
    page.evaluate("new Promise(resume => setTimeout(resume))")  # what the page does with it is done
    expect(lines.nth(1)).to_contain_text("not sure")


def test_the_keyboard_asks_for_a_precision_and_heads_that_lack_it_are_not_sure(open_page):
    page = open_page(**DESKTOP)
    page.set_input_files("input[type=file]", photo())
    assert_answered(page)
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "precision":
            break
    with page.expect_response("**/v1/classify?top_k=4&precision=0.99"):
        page.keyboard.press("End")
    expect(page.locator(".head").first).to_contain_text("not sure")


def test_the_line_to_call_it_answers_what_the_page_shows(open_page, tmp_path):
    page = open_page(**DESKTOP)
    sent = photo()
    (tmp_path / "photo.jpg").write_bytes(sent["buffer"])
    page.set_input_files("input[type=file]", sent)
    page.get_by_label("Only labels that are right").select_option("0.9")
    assert_answered(page)
    line = page.locator("#curl").inner_text()
    assert "precision=0.9" in line
    ran = subprocess.run(
        ["bash", "-c", f"{line} --silent --fail"],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    labels = json.loads(ran.stdout)["labels"]
    shown = page.locator(".head .label span:first-child").all_inner_texts()
    assert shown == [each["label"] or "not sure" for each in labels.values()]
    page.get_by_role("button", name="Copy").click()
    expect(page.locator("#copy")).to_have_text(re.compile("Copied|Selected"))

"""The programs of docs/integrate.md, taken from the page and run against a service."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from contract import CLASSIFY
from playwright.sync_api import expect
from programs import BLOCKS, PAGE, PROGRAMS, block, write_programs
from scripted_server import HANG_UP, scripted
from services import PROJECT, Running, environment, free_port

from deployments.http.problems import STATUSES
from mlc_core.feedback import read_feedback
from mlc_core.keys import read_keys
from mlc_core.spec import HEADS

SHIRT = PROJECT / "samples/tshirt.jpg"
NO_PHOTO = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"a dress"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, keyed, form_key):
    """Where a reader has saved the programs, and the key of the form in it."""
    folder = tmp_path_factory.mktemp("programs")
    write_programs(folder)
    form = folder / "form.php"
    for printed, own in (("http://127.0.0.1:8000", keyed.url), ("the key named form", form_key)):
        text = form.read_text()
        assert text.count(printed) == 1
        form.write_text(text.replace(printed, own))
    return folder


@pytest.fixture(scope="module")
def variables(keyed, key):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return environment(MLC_URL=keyed.url, MLC_KEY=key, NO_PROXY="127.0.0.1", PATH=path)


@pytest.fixture(scope="module")
def pages(php, pages_url, folder, variables, tmp_path_factory):
    with served(php, pages_url, folder, variables, tmp_path_factory.mktemp("php")):
        yield pages_url


@contextmanager
def served(php, url, folder, variables, sessions):
    """PHP serves the programs, and warns of nothing."""
    sessions_in = f"session.save_path={sessions}"
    command = [php, "-d", sessions_in, "-S", url.removeprefix("http://")]
    server = Running(command, sessions / "output", variables, folder)
    server.wait_for("Development Server")
    yield
    server.press_ctrl_c()
    server.wait()
    warnings = re.findall(r"PHP Warning: +(.*)", server.output)
    # PHP itself warns of a body over post_max_size.
    assert [each for each in warnings if not each.startswith("POST Content-Length of")] == []
    assert "PHP Notice" not in server.output


@contextmanager
def logged_in(pages):
    """A client of the pages, and the token of its form."""
    with httpx.Client(base_url=pages, timeout=30, trust_env=False, follow_redirects=True) as client:
        (token,) = re.findall(r'name="csrf" value="(\w+)"', client.get("/login.php").text)
        yield client, token


def save(pages, **fields):
    with logged_in(pages) as (client, token):
        files = {"photo": ("a.jpg", SHIRT.read_bytes())}
        return client.post("/save.php", data={"csrf": token} | fields, files=files)


@pytest.fixture
def ask(keyed, key):
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=keyed.url, timeout=30, trust_env=False, headers=headers) as client:
        yield client


@pytest.fixture
def form(browser, pages):
    context = browser.new_context()
    page = context.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{pages}/login.php")
    yield page
    context.close()
    assert faults == []


def run(command, folder, env):
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def field(page, head):
    return page.locator(f"input[name={head}]")


def test_every_program_of_the_page_is_here():
    assert sorted(PROGRAMS) == [
        "classify.py", "form.php", "login.php", "mlc.php", "mlc.py", "nightly.sh", "rows.py",
        "save.php", "search.php", "typed.py",
    ]  # fmt: skip
    assert len(BLOCKS) == 5
    assert PAGE.count("```") == 2 * (len(PROGRAMS) + len(BLOCKS) + 1)  # and the crontab


def test_the_table_says_what_to_do_with_every_status():
    rows = re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE)
    named = {int(status) for row in rows for status in row.split(", ")}
    assert named >= {status for status, _ in STATUSES.values()} - {499} | {200, 201, 405, 500}


def test_the_page_its_curl_line_and_the_readme_agree_on_what_is_not_sent_again():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^\| 500 \|.*\| do not retry", PAGE, re.MULTILINE)
    assert re.search(r"^\| 500 \|.*\| do not retry", readme, re.MULTILINE)
    assert "--retry" not in block("curl")


def test_the_service_of_the_page_is_set_up_as_printed(tmp_path, variables):
    for each in ("configs", "samples", "mlc_core"):
        (tmp_path / each).symlink_to(PROJECT / each)
    lines = block("make check-config").splitlines(keepends=True)
    assert lines[0].startswith("make check-config CONFIG=configs/")
    assert lines[-1] == "make serve CONFIG=shop.yaml\n"
    run(["bash", "-euc", "".join(lines[1:-1])], tmp_path, variables)
    config = tmp_path / "shop.yaml"
    text = config.read_text()
    for name in ("keys.json", "catalogue"):
        assert text.count(f": {name}\n") == 1
        text = text.replace(f": {name}\n", f": {tmp_path / name}\n")
    config.write_text(text)
    checked = run([sys.executable, "-m", "deployments.serve_config", config], PROJECT, variables)
    assert "shop.yaml is right" in checked
    keys = {each.name: each.writes for each in read_keys(tmp_path / "keys.json")}
    assert keys == {"backend": True, "form": False}
    assert len(list((tmp_path / "catalogue").iterdir())) >= 1


def test_the_curl_line_answers_labels(variables):
    answer = json.loads(run(["bash", "-c", block("curl")], PROJECT, variables))
    assert list(answer["labels"]) == list(HEADS)


def test_classify_names_labels_and_says_what_is_wrong_with_a_file(folder, variables, ask):
    said = run([sys.executable, "classify.py", SHIRT, "rows.py"], folder, variables)
    first, second = said.splitlines()
    answer = ask.post(CLASSIFY, params={"precision": 0.95}, content=SHIRT.read_bytes()).json()
    assert str({head: each["label"] for head, each in answer["labels"].items()}) in first
    assert second.startswith("rows.py 415 {")


CALLS = {
    "python": [
        sys.executable, "-c",
        "from mlc import call; print(call('POST', '/', {s}, content=b'photo').status_code)",
    ],
    "php": ["php", "-r", "require 'mlc.php'; echo mlc('/', 'photo', within_s: {s})[0];"],
}  # fmt: skip


@pytest.fixture(params=CALLS)
def send(request, folder, variables):
    if request.param == "php":
        request.getfixturevalue("php")

    def send(url, within_s=20):
        *command, code = CALLS[request.param]
        code = code.replace("{s}", str(within_s))
        return int(run([*command, code], folder, variables | {"MLC_URL": url}))

    return send


def test_a_call_is_sent_again_until_it_is_answered(send):
    with scripted([503, HANG_UP, 429, 504, 502, 200]) as script:
        assert send(script.url) == 200
    assert script.bodies == [b"photo"] * 6


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 415, 422, 500])
def test_what_cant_pass_is_not_sent_again(send, status):
    with scripted([status, 200]) as script:
        assert send(script.url) == status
    assert len(script.bodies) == 1


def test_retries_end_in_time_and_wait_as_long_as_they_are_told(send):
    with scripted([503], retry_after="5") as script:
        assert send(script.url, within_s=2) == 503
    assert len(script.bodies) == 1


def test_the_form_fills_in_what_is_sure_and_saves_what_a_person_says(form, ask, feedback):
    answered = ask.post(CLASSIFY, params={"precision": 0.95}, content=SHIRT.read_bytes()).json()
    form.set_input_files("input[type=file]", SHIRT)
    expect(form.locator("output")).to_contain_text("Please check the fields")
    for head, each in answered["labels"].items():
        expect(field(form, head)).to_have_value(each["label"] or "")
        if each["label"] is None:
            guess = each["alternatives"][0]["label"]
            expect(field(form, head)).to_have_attribute("placeholder", f"{guess}?")
    assert form.locator("#category option").count() > 100
    request_id = form.locator("input[name=request_id]").input_value()
    assert request_id
    for head, label in zip(HEADS, ("Pink", "Apparel", "Topwear", "Tshirts"), strict=True):
        field(form, head).fill(label)
    form.get_by_role("button", name="Save").click()
    expect(form.locator("body")).to_have_text("Saved. Corrected: color")
    said = [each for each in read_feedback(feedback) if each.by == "editor-7"]
    assert said[-1].labels["color"] == "Pink"


def test_the_form_asks_for_another_photo(form):
    form.set_input_files("input[type=file]", NO_PHOTO)
    expect(form.locator("output")).to_contain_text("Please choose another photo: the bytes are not")


def test_the_form_lets_a_person_work_after_an_answer_that_broke_off(form):
    form.route("**/v1/classify*", lambda route: route.fulfill(status=200, body='{"labels": {'))
    form.set_input_files("input[type=file]", SHIRT)
    expect(form.locator("output")).to_contain_text("There are no suggestions now")


def test_the_form_tries_again_and_lets_a_person_work_without_suggestions(form):
    refusals, left = [], 1

    def refuse(route):
        headers = {"Access-Control-Allow-Origin": "*", "Retry-After": str(60 * (left == 0))}
        headers["Access-Control-Expose-Headers"] = "Retry-After"
        if route.request.method == "OPTIONS" or len(refusals) == left > 0:
            route.continue_()
        else:
            refusals.append(route)
            route.fulfill(status=503, headers=headers, body="{}")

    form.route("**/v1/classify*", refuse)
    form.set_input_files("input[type=file]", SHIRT)
    expect(field(form, "category")).to_have_value("Tshirts")
    assert len(refusals) == 1
    left = 0
    form.set_input_files("input[type=file]", {**NO_PHOTO, "name": "other.jpg"})
    expect(form.locator("output")).to_contain_text("There are no suggestions now")
    expect(field(form, "category")).to_have_value("")


def test_a_correction_of_a_request_that_is_forgotten_goes_with_its_photo(pages, feedback):
    before = len(read_feedback(feedback))
    saved = save(pages, request_id="never-was", color="Pink", category="")
    assert saved.text == "Saved. Corrected: color"
    *_, last = read_feedback(feedback)
    assert len(read_feedback(feedback)) == before + 1
    assert last.labels == {"color": "Pink"}
    assert last.by == "editor-7"


def test_a_product_is_saved_though_its_words_are_none_of_the_model(pages, feedback):
    before = len(read_feedback(feedback))
    assert save(pages, color="Puce").text == "Saved."
    assert len(read_feedback(feedback)) == before


@pytest.mark.parametrize("fields", [{"request_id": "any"}, {}])
def test_a_save_does_not_wait_for_a_service_that_is_busy(php, folder, variables, tmp_path, fields):
    url = f"http://127.0.0.1:{free_port()}"
    with (
        scripted([503], retry_after="1") as script,
        served(php, url, folder, variables | {"MLC_URL": script.url}, tmp_path),
    ):
        began = time.monotonic()
        assert save(url, color="Pink", **fields).text == "Saved."
        assert script.bodies
        assert time.monotonic() - began < 10


def test_only_the_form_of_a_person_who_is_logged_in_is_saved(pages, feedback):
    before = len(read_feedback(feedback))
    files = {"photo": ("a.jpg", SHIRT.read_bytes())}
    for page in ("form.php", "save.php"):
        refused = httpx.post(
            f"{pages}/{page}", data={"color": "Pink"}, files=files, trust_env=False
        )
        assert (refused.status_code, refused.text) == (403, "Please log in first.")
    with logged_in(pages) as (client, token):
        for sent in ({}, {"csrf": ""}, {"csrf": token[:-1]}, {"csrf[]": token}):
            refused = client.post("/save.php", data={"color": "Pink"} | sent, files=files)
            assert (refused.status_code, refused.text) == (403, "Please open the form again.")
    assert len(read_feedback(feedback)) == before


def search(pages, photo, at_most=""):
    return httpx.post(
        f"{pages}/search.php", data={"at_most": at_most}, files={"photo": ("a.jpg", photo)},
        timeout=30, trust_env=False,
    ).text  # fmt: skip


def test_a_shopper_finds_products_in_stock_up_to_a_price(pages, shop):
    with (shop / "products.csv").open(encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    in_stock = {name: row for name, row in rows.items() if row["in_stock"] == "true"}
    first = next(iter(in_stock))
    photo = (shop / rows[first]["image"]).read_bytes()
    found = re.findall(r"id=(P\d+)", search(pages, photo))
    assert len(found) == 8
    assert found[0] == first
    assert set(found) <= set(in_stock)
    for at_most in ("30", "30,00", " 30.0 "):
        cheap = re.findall(r"id=(P\d+)", search(pages, photo, at_most))
        assert cheap
        assert all(float(in_stock[name]["price"]) <= 30 for name in cheap)
    price = in_stock[first]["price"]
    assert re.findall(r"id=(P\d+)", search(pages, photo, price.replace(".", ",")))[0] == first
    assert "Nothing like this" in search(pages, photo, "0.01")
    assert "Please choose another photo" in search(pages, b"a dress")
    for wrong in ("cheap", "1,299", "-1"):
        assert "Please give the price as a number" in search(pages, photo, wrong)


def test_odd_uploads_are_answered_with_a_text(pages, feedback):
    before = len(read_feedback(feedback))
    photo = ("a.jpg", SHIRT.read_bytes())
    with logged_in(pages) as (client, token):
        fields = {"csrf": token, "color": "Pink"}
        several = client.post("/save.php", data=fields, files={"photo[]": photo})
        assert several.text == "Saved."
        too_large = {"photo": ("a.jpg", bytes(9 * 2**20))}
        lost = client.post("/save.php", data=fields, files=too_large)
        assert (lost.status_code, lost.text) == (
            400,
            "Nothing arrived: the photo may be too large.",
        )
        for files in ({"photo[]": photo}, too_large):
            assert "The photo did not arrive" in client.post("/search.php", files=files).text
    assert len(read_feedback(feedback)) == before


def test_the_nightly_run_writes_a_table_and_does_nothing_twice(folder, variables, shop, tmp_path):
    pytest.importorskip("pandas", reason="mlc catalog needs it")
    out = tmp_path / "labels"
    command = ["bash", "nightly.sh", str(shop / "products.csv"), str(out)]
    run(command, folder, variables)
    with (tmp_path / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", *HEADS]
    assert {row["id"] for row in rows} == {f"P{n:05}" for n in range(150)}
    assert {"Tshirts", "Handbags"} <= {row["category"] for row in rows}
    written = (out / "_SUCCESS").stat().st_mtime_ns
    run(command, folder, variables)
    assert (out / "_SUCCESS").stat().st_mtime_ns == written

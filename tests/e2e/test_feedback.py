"""Feedback over HTTP, to two ingresses, and what the command makes of it."""

import json
import subprocess

import httpx
import pytest
from contract import CLASSIFY, assert_problem
from services import PROJECT, environment, tool

from mlc_core.feedback import read_feedback

SHIRT = (PROJECT / "samples/tshirt.jpg").read_bytes()
RIGHT = {
    "color": "Maroon", "master_category": "Apparel", "sub_category": "Topwear",
    "category": "Tshirts",
}  # fmt: skip


@pytest.fixture
def client(keyed, key):
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=keyed.url, timeout=30, trust_env=False, headers=headers) as client:
        yield client


def run(*command):
    return subprocess.run(
        [tool("mlc"), *command], check=False, cwd=PROJECT, env=environment(),
        capture_output=True, text=True,
    )  # fmt: skip


def test_a_correction_is_stored_reported_and_measured(client, feedback, tmp_path):
    said = json.dumps({"by": "anna", "labels": RIGHT})
    for _ in range(4):  # to either ingress
        answer = client.post(
            "/v1/feedback", files={"image": ("a.jpg", SHIRT), "feedback": (None, said)}
        )
        assert answer.status_code == 201, answer.text
        assert answer.json()["corrected"] == ["color"]
    stored = [each for each in read_feedback(feedback) if each.by == "anna"]
    assert [(each.by, each.key) for each in stored] == [("anna", "shop")] * 4
    assert len({photo.name for photo in feedback.glob("*/photos/*")}) == 1

    report = run("feedback", str(feedback))
    assert report.returncode == 0, report.stderr
    assert "4 × color: Red is Maroon" in report.stdout
    measured = run("evaluate", str(feedback), "--out", str(tmp_path))
    assert measured.returncode == 0, measured.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["heads"]["color"]["accuracy"]["value"] == 0
    assert metrics["heads"]["category"]["accuracy"]["value"] == 1


def test_a_client_names_a_request_and_sends_the_photo_if_its_ingress_lacks_it(client, feedback):
    client.post(CLASSIFY, content=SHIRT, headers={"X-Request-ID": "listing-7"})
    said = {"by": "ben", "labels": {"color": "Red"}, "request_id": "listing-7"}
    answer = client.post("/v1/feedback", json=said)
    if answer.status_code != 201:
        assert_problem(answer, 404)
        form = {"image": ("a.jpg", SHIRT), "feedback": (None, json.dumps(said))}
        answer = client.post("/v1/feedback", files=form)
    assert answer.status_code == 201, answer.text
    assert answer.json()["corrected"] == []
    assert "listing-7" in {each.request_id for each in read_feedback(feedback)}


def test_without_a_directory_there_is_no_feedback(url):
    assert_problem(httpx.post(f"{url}/v1/feedback", json={}, trust_env=False), 404)
    assert "/v1/feedback" not in httpx.get(f"{url}/openapi.json", trust_env=False).json()["paths"]

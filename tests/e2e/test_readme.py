"""Claims of the README: its commands work as printed, from a clone's root."""

import ast
import json
import re
import subprocess

import httpx
import pytest
from readme import COMMANDS, printed
from services import PROJECT, START_WITHIN_S, Running, environment, free_port, left_over

from mlc_core.spec import HEADS

CURL = [command for command in COMMANDS if command.startswith("curl")]


def run(command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=PROJECT, capture_output=True, timeout=60, check=True,
        env=environment(NO_PROXY="127.0.0.1"),
    )  # fmt: skip
    return done.stdout.decode()


@pytest.mark.parametrize("command", CURL)
def test_a_curl_line_of_the_readme_works_as_printed(command, url):
    answer = json.loads(run(command.replace("http://127.0.0.1:8000", url)))
    for result in answer.get("results", [answer]):
        assert list(result["labels"]) == list(HEADS)


def test_the_answer_that_the_readme_shows_is_the_real_one(url):
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    shown, _ = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
    shown, real = json.loads(shown), json.loads(run(CURL[0].replace("http://127.0.0.1:8000", url)))
    assert shown["model"] == real["model"]
    for head, label in shown["labels"].items():
        assert real["labels"][head]["label"] == label["label"]
        assert real["labels"][head]["confidence"] == pytest.approx(label["confidence"], abs=0.002)


def test_a_photo_is_classified_from_the_command_line():
    assert "Tshirts" in run(printed(".venv/bin/mlc classify"))


def test_make_serve_says_what_it_does_and_make_stop_leaves_nothing(tmp_path):
    port = free_port()
    command = [*printed("make serve").split(), f"PORT={port}"]
    serving = Running(command, tmp_path / "output")
    serving.wait_for("stop      Ctrl-C")
    (try_it,) = re.findall(r"curl -F .*", serving.output)
    assert "labels" in json.loads(run(try_it))
    stopped = subprocess.run(
        ["make", "stop", f"PORT={port}"], cwd=PROJECT, capture_output=True, timeout=120, check=True
    )
    assert b"stopped the service" in stopped.stdout
    assert serving.wait() == 0
    assert left_over(port) == []


@pytest.mark.slow
def test_make_demo_serves_a_shop_whose_products_are_found(tmp_path):
    port = free_port()
    serving = Running([*printed("make demo").split(), f"PORT={port}"], tmp_path / "output")
    serving.wait_for("stop      Ctrl-C", 2 * START_WITHIN_S)
    photo = (PROJECT / "build/demo/photos/7.jpg").read_bytes()
    found = httpx.post(f"http://127.0.0.1:{port}/v1/similar", content=photo, trust_env=False)
    assert found.json()["products"][0]["id"] == "P00007"
    subprocess.run(["make", "stop", f"PORT={port}"], cwd=PROJECT, check=True, timeout=120)
    assert serving.wait() == 0
    assert left_over(port) == []


def test_make_check_config_says_that_the_shipped_config_is_right():
    assert "serve_config.yaml is right" in run(printed("make check-config"))


def test_make_check_config_names_what_is_wrong(tmp_path):
    file = tmp_path / "mine.yaml"
    text = (PROJECT / "serve_config.yaml").read_text(encoding="utf-8")
    for right, wrong, named in (
        ("precision: int8", "precison: int8", "precison = 'int8': no such key"),
        ("precision: int8", "precision: int4", "precision = 'int4'"),
        ("models/fashion/2", "models/nowhere", "no model at"),
        ("args: {}", "args: {deadline: 3}", "deadline = 3: no such key"),
    ):
        file.write_text(text.replace(right, wrong))
        done = subprocess.run(
            ["make", "check-config", f"CONFIG={file}"], cwd=PROJECT, check=False,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode
        assert named in done.stderr
        assert "mine.yaml" in done.stderr
        assert "Traceback" not in done.stderr


def test_every_command_is_run_by_a_test_or_by_ci():
    tests = "".join(file.read_text() for file in (PROJECT / "tests").rglob("test_*.py"))
    texts = re.findall(r"printed\((\"[^\"]+\"|'[^']+')\)", tests)
    starts = tuple(map(ast.literal_eval, texts))
    ci = (PROJECT / ".ci/run").read_text().splitlines()
    unrun = [
        command
        for command in COMMANDS
        if not (command in ci or command in CURL or command.startswith(starts))
    ]
    assert unrun == []

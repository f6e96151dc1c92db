"""Claims of the README: its commands work as printed, from a clone's root."""

import json
import re
import subprocess

import pytest
from readme import COMMANDS, printed
from services import PROJECT, Running, environment, free_port, left_over

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
    (shown,) = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
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


def test_every_command_is_run_by_a_test_or_by_ci():
    tests = "".join(file.read_text() for file in (PROJECT / "tests").rglob("test_*.py"))
    starts = re.findall(r'printed\("([^"]+)"\)', tests)
    ci = (PROJECT / ".ci/run").read_text().splitlines()
    unrun = [
        command
        for command in COMMANDS
        if not (command in ci or command in CURL or command.startswith(tuple(starts)))
    ]
    assert unrun == []

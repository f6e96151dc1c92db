"""Claims of the README: its commands work as printed."""

import json
import re
import shlex
import subprocess

import pytest
from photos import jpeg
from services import PROJECT, Running, environment, free_port, left_over

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
CURL = [command for command in COMMANDS if command.startswith("curl")]

# What is run by something else than this module.
ELSEWHERE = {
    "make test": ".ci/run",
    "set -a; . ./cluster.env; set +a": "tests/e2e/test_serve_cli.py",
    "ray start --head": "tests/e2e/test_serve_cli.py",
    "serve deploy serve_config.yaml": "tests/e2e/test_serve_cli.py",
    "make train DATA=path/to/fashion.zip": "tests/mlc_core/test_cli.py",
    "make compare DATA=path/to/fashion.zip": "tests/e2e/test_compare.py",
    "make loadtest SCENARIO=steady ARGS='--open-loop --peak 20 --seconds 10'": (
        "tests/e2e/test_loadtest.py"
    ),
    "make capacity CONFIG=configs/rehearsal.yaml ARGS='--target 200'": (
        "tests/e2e/test_capacity.py"
    ),
    "make plan RATE='1000 100000 1000000'": "tests/bench/test_docs.py",
    "make evaluate DATA=path/to/fashion.zip": "tests/mlc_core/test_cli.py",
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    return tmp_path


def run(command, folder):
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, timeout=60, check=True,
        env=environment(NO_PROXY="127.0.0.1"),
    )  # fmt: skip
    return done.stdout.decode()


@pytest.mark.parametrize("command", CURL)
def test_a_curl_line_of_the_readme_works_as_printed(command, url, folder):
    answer = json.loads(run(command.replace("http://127.0.0.1:8000", url), folder))
    for result in answer.get("results", [answer]):
        assert list(result["labels"]) == ["color", "master_category", "sub_category", "category"]


def test_a_photo_is_classified_from_the_command_line(folder):
    (command,) = [command for command in COMMANDS if "mlc classify" in command]
    command = command.replace(".venv/bin/", f"{PROJECT}/.venv/bin/")
    assert "photo.jpg" in run(f"cd {shlex.quote(str(PROJECT))} && {command}".replace(
        "photo.jpg", str(folder / "photo.jpg")), folder)  # fmt: skip


def test_make_serve_says_what_it_does_and_make_stop_leaves_nothing(tmp_path, folder):
    port = free_port()
    serving = Running(["make", "serve", f"PORT={port}"], tmp_path / "output")
    serving.wait_for("stop      Ctrl-C")
    (printed,) = re.findall(r"curl -F .*", serving.output)
    assert "labels" in json.loads(run(printed, folder))
    stopped = subprocess.run(
        ["make", "stop", f"PORT={port}"], cwd=PROJECT, capture_output=True, timeout=120, check=True
    )
    assert b"stopped the service" in stopped.stdout
    assert serving.wait() == 0
    assert left_over(port) == []


def test_every_command_is_run_somewhere():
    here = {"make serve", ".venv/bin/mlc classify photo.jpg", *CURL}
    assert set(COMMANDS) == here | set(ELSEWHERE)

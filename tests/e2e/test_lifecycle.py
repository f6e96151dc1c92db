"""Starting and stopping on one machine: clear errors, nothing left behind."""

import socket
import subprocess
import sys

import pytest
from services import PROJECT, Running, Service, answers, environment, free_port, left_over


def test_a_second_start_on_the_port_says_so_and_leaves_the_first_alone(service, tmp_path):
    second = Service(tmp_path / "output", port=service.port)
    assert second.wait() == 1
    assert f"it runs on port {service.port} already" in second.output
    assert f"make stop PORT={service.port}" in second.output
    assert "Traceback" not in second.output
    assert answers(f"{service.url}/readyz")


def test_a_port_that_another_program_has_is_named(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with Service(tmp_path / "output", port=port) as service:
            assert service.wait() == 1
            assert f"127.0.0.1:{port} can't be listened on" in service.output
            assert "make serve PORT=" in service.output
            assert "Traceback" not in service.output
            assert left_over(port) == []


def test_a_start_after_kill_9_works_and_stop_leaves_nothing(tmp_path):
    with Service(tmp_path / "first") as first:
        first.wait_until_ready()
        first.kill()
        first.wait()
        with Service(tmp_path / "second", port=first.port) as second:
            second.wait_until_ready()
            assert answers(f"{second.url}/readyz")
            command = [
                sys.executable,
                "-m",
                "launcher.service",
                "stop",
                "--port",
                str(second.port),
            ]
            stop = Running(command, tmp_path / "stop")
            assert second.wait() == 0  # first, lest it stay a zombie that `stop` waits for
            assert stop.wait() == 0
            assert f"stopped the service on port {second.port}" in stop.output
            second.assert_nothing_left()


def test_stop_where_nothing_runs_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "launcher.service", "stop", "--port", str(free_port())],
        capture_output=True, text=True, timeout=60, check=True, cwd=PROJECT, env=environment(),
    )  # fmt: skip
    assert "nothing runs on port" in done.stdout


@pytest.mark.parametrize(
    ("args", "user_config", "named"),
    [
        ({"limits": {"photo_bytes": "10MB"}}, {}, ["limits.photo_bytes", "'10MB'", "integer"]),
        ({}, {"model": "models/nowhere"}, ["no model at", "models/nowhere"]),
    ],
    ids=["args", "user_config"],
)
def test_a_config_that_is_wrong_fails_naming_what(tmp_path, write_config, args, user_config, named):
    with Service(tmp_path / "output", write_config(args, user_config)) as service:
        assert service.wait(120) == 1
        for word in named:
            assert word in service.output, service.output
        service.assert_nothing_left()


@pytest.mark.parametrize("moment", ["starting Ray", "loading the model"])
def test_ctrl_c_during_the_start_leaves_nothing(tmp_path, moment):
    with Service(tmp_path / "output") as service:
        service.wait_for(moment)
        service.stop()

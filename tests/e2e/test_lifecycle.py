"""Starting and stopping on one machine: clear errors, nothing left behind."""

import contextlib
import socket
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest
from services import PROJECT, Running, Service, answers, environment, free_port, left_over

from bench.servers import process_name
from launcher.processes import processes


@contextmanager
def starting(config=None, port=None):
    """A service that is started without waiting; whatever is left of it ends with the test."""
    service = Service(config, port=port)
    try:
        yield service.start()
    finally:
        service.remove()


def stop(port, output):
    command = [sys.executable, "-m", "launcher", "stop", "--port", str(port)]
    return Running(command, output)


def test_a_second_start_on_the_port_says_so_and_leaves_the_first_alone(service):
    second = Service(port=service.port).start()
    assert second.wait() == 1
    assert f"it runs on port {service.port} already" in second.output
    assert f"make stop PORT={service.port}" in second.output
    assert "Traceback" not in second.output
    assert answers(f"{service.url}/readyz")


def test_a_port_that_another_program_has_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with starting(port=port) as service:
            assert service.wait() == 1
            assert f"127.0.0.1:{port} can't be listened on" in service.output
            assert "make serve PORT=" in service.output
            assert "Traceback" not in service.output
            assert left_over(port) == []


@pytest.mark.slow
def test_a_start_and_a_stop_remove_what_a_killed_driver_left(tmp_path):
    with starting() as first:
        first.wait_until_ready()
        kill_driver_alone(first)
        with starting(port=first.port) as second:
            second.wait_until_ready()
            assert "removing what an earlier, killed service left behind" in second.output
            assert answers(f"{second.url}/readyz")
            kill_driver_alone(second)
            stopping = stop(second.port, tmp_path / "output")
            assert stopping.wait() == 0
            assert "removing what did not stop by itself" in stopping.output
            assert f"stopped the service on port {second.port}" in stopping.output
            second.assert_nothing_left()


def kill_driver_alone(service):
    """Kill the driver; the rest stays, as it can't run to see that."""
    for process in processes(service.port):
        if process.pid != service.process.pid:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
    service.process.kill()
    service.wait()


# They listen for Ray, which asks for its token; docs/security.md has the firewall rule.
_RAY = {
    "launcher", "gcs_server", "raylet", "dashboard", "DashboardAgent", "RuntimeEnvAgent",
    "ServeController", "HAProxyManager", "ProxyActor", "Ingress", "Preprocessor", "Classifier",
    "other Ray",
}  # fmt: skip


def test_beyond_loopback_only_ray_listens(service):
    """And no port of it tells anything without a token, but its metrics."""
    found = {}
    for process in processes(service.port):
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    found[each.laddr.port] = (process_name(process), each.laddr.ip)
    assert ("HAProxy", "127.0.0.1") in found.values()
    beyond = {port: name for port, (name, ip) in found.items() if ip != "127.0.0.1"}
    assert set(beyond.values()) <= _RAY
    assert {(beyond[port], told) for port in beyond if (told := tells(port))} == set()


def tells(port):
    """What it answers to a request without a token that is no error and no metrics."""
    for path in ("/", "/v1/classify", "/api/cluster_status"):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as peer:
            peer.sendall(f"GET {path} HTTP/1.0\r\nHost: ray\r\n\r\n".encode())
            with peer.makefile("rb") as file:
                head, _, body = file.read(10_000).partition(b"\r\n\r\n")
            if b" 200 " in head.partition(b"\r\n")[0] and not body.startswith((b"#", b"ray_")):
                return head + body
    return b""


def test_stop_where_nothing_runs_says_so(tmp_path):
    stopping = stop(free_port(), tmp_path / "output")
    assert stopping.wait() == 0
    assert "nothing runs on port" in stopping.output


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["PORT=99999"], 2, "'99999' is not a port; choose one from 1024 to 65535"),
        (["PORT=web"], 2, "'web' is not a port"),
        (["CONFIG=nowhere.yaml"], 1, "nowhere.yaml can't be read: No such file or directory"),
        (["CONFIG=Makefile"], 1, "Makefile is not"),
    ],
)
def test_make_serve_names_what_is_wrong_without_a_traceback(arguments, code, named):
    command = ["make", "serve", f"PORT={free_port()}", *arguments]
    done = subprocess.run(
        command, cwd=PROJECT, env=environment(), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2  # of make
    said = done.stdout + done.stderr
    assert f"Error {code}" in said
    assert named in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("args", "user_config", "named"),
    [
        (
            {"limits": {"max_photo_bytes": "10MB"}}, {},
            ["limits.max_photo_bytes", "'10MB'", "integer"],
        ),
        ({}, {"model": "models/nowhere"}, ["no model at", "models/nowhere"]),
    ],
    ids=["args", "user_config"],
)  # fmt: skip
def test_a_config_that_is_wrong_fails_naming_what(
    tmp_path, shipped_config, args, user_config, named
):
    config = shipped_config.with_user_config(**user_config)
    config.application["args"] = args
    with starting(config.write(tmp_path / "config.yaml")) as service:
        assert service.wait(120) == 1
        for word in named:
            assert word in service.output, service.output
        service.assert_nothing_left()


@pytest.mark.parametrize("moment", ["starting Ray", "loading the model"])
def test_ctrl_c_during_the_start_leaves_nothing(moment):
    with starting() as service:
        service.wait_for(moment)
        service.stop()

"""Runs the service in this process until it is interrupted, and leaves no process or busy port."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from deployments.serve_config import ServeConfig
from launcher.agents import supervise_agents
from launcher.processes import RUN, is_driver, kill, processes, run_directory

DEFAULT_PORT = 8000
_READY_WITHIN_S = 120.0
_STOPPED_WITHIN_S = 60.0
_LOCKED = (401, 404)  # of an ingress whose `endpoints.health` asks for a key, or is closed
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_interrupted = threading.Event()


class StartError(Exception):
    """The service can't be started; the text says why and what to do."""


def start(host: str, port: int, config_file: Path) -> None:
    """Serve until interrupted.

    Raises:
        StartError: the port is taken, the config is wrong, or the service does not come up.
    """
    _handle_signals(_interrupt)
    others = [process for process in processes(port) if process.pid != os.getpid()]
    if any(map(is_driver, others)):
        raise StartError(f"it runs on port {port} already; `make stop PORT={port}` stops it")
    _remove(others, "what an earlier, killed service left behind")
    _check_port(host, port, "with `make serve PORT=…`")
    try:
        config = ServeConfig.read(config_file)
        config.check(models=True)
    except ValueError as error:
        raise StartError(str(error)) from error
    if config.grpc_port is not None:
        _check_port(host, config.grpc_port, f"in grpc_options of {config_file}")
    shutil.rmtree(run_directory(port), ignore_errors=True)  # logs of an earlier run
    began, lost = time.monotonic(), False
    try:
        dashboard, logs = _start_ray(config.listening(host, port).fields)
        say("loading the model …")
        _wait_until_ready(host, port, logs)
        url = f"http://{_reachable(host)}:{port}"
        say(
            f"ready after {time.monotonic() - began:.0f} s\n"
            f"  page      {url}/\n"
            f"  try       curl -F image=@samples/tshirt.jpg {url}/v1/classify\n"
            f"  change    RAY_AUTH_MODE=token .venv/bin/serve deploy --address {dashboard} CONFIG\n"
            f"  logs      {logs}\n"
            f"  stop      Ctrl-C, or `make stop{f' PORT={port}' if port != DEFAULT_PORT else ''}`"
        )
        _wait_for_the_node(port)
        say("Ray's node is lost, with all that it served; starting again …")
        lost = True
    except KeyboardInterrupt:
        say("stopping …")
    finally:
        # A second Ctrl-C would leave the port busy; the shutdown takes a few seconds.
        _handle_signals(signal.SIG_IGN)
        _shut_down(port, kill_only=lost)
    if lost:
        os.execv(sys.executable, [sys.executable, "-m", "launcher", *sys.argv[1:]])  # noqa: S606
    say("stopped")


def stop(port: int) -> None:
    """Stop the service on a port, and kill processes that are left."""
    _handle_signals(_interrupt)
    found = list(processes(port))
    drivers = [process for process in found if is_driver(process)]
    for driver in drivers:
        driver.send_signal(signal.SIGINT)
    psutil.wait_procs(drivers, timeout=_STOPPED_WITHIN_S)
    _remove(list(processes(port)), "what did not stop by itself")
    say(f"stopped the service on port {port}" if found else f"nothing runs on port {port}")


def _start_ray(config: dict[str, Any]) -> tuple[str, str]:
    """Start Ray and give it the config, as `serve deploy` does.

    Returns:
        The URL of Ray's dashboard, which accepts configs, and the folder of Serve's logs.
    """
    say("starting Ray …")
    with _signals_held():  # a half-imported Ray can't be shut down
        import ray  # noqa: PLC0415  (it reads the environment when imported)
        from ray import serve  # noqa: F401, PLC0415
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient  # noqa: PLC0415

    supervise_agents()
    context = ray.init(
        num_cpus=max(os.cpu_count() or 1, math.ceil(2 * _num_cpus(config))),  # room for a roll-out
        include_dashboard=True, log_to_driver=False, logging_level=logging.WARNING,
        object_store_memory=100 * 2**20,  # photos go over gRPC, not through the store
        _temp_dir=os.environ[RUN],
    )  # fmt: skip
    _handle_signals(_interrupt)  # Ray has replaced the handlers
    dashboard = f"http://{context.dashboard_url}"
    try:
        ServeSubmissionClient(dashboard).deploy_applications(config)
    except RuntimeError as error:
        raise StartError(f"Ray Serve refused the config: {error}") from error
    return dashboard, f"{os.environ[RUN]}/session_latest/logs/serve"


def _check_port(host: str, port: int, where: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"{host}:{port} can't be listened on ({error.strerror}); choose another port "
                f"{where}"
            ) from error


def _num_cpus(config: dict[str, Any]) -> float:
    """The logical CPUs that all replicas of a config ask for; they limit no use of real ones."""
    total = 0.0
    for application in config["applications"]:
        for deployment in application.get("deployments") or []:
            scaling = deployment.get("autoscaling_config") or {}
            count = scaling.get("max_replicas") or deployment.get("num_replicas") or 1
            actor = deployment.get("ray_actor_options") or {}
            total += (count if isinstance(count, int) else 1) * float(actor.get("num_cpus", 1))
    return total


def _wait_until_ready(host: str, port: int, logs: str) -> None:
    from ray import serve  # noqa: PLC0415

    until = time.monotonic() + _READY_WITHIN_S
    url = f"http://{_reachable(host)}:{port}/readyz"
    while time.monotonic() < until:
        if _interrupted.is_set():
            raise KeyboardInterrupt
        answered = 0
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as error:
            answered = error.code
        except OSError:
            pass  # nothing listens yet
        statuses = {each.status for each in serve.status().applications.values()}
        if statuses == {"RUNNING"} and answered in _LOCKED:
            return
        if "DEPLOY_FAILED" in statuses:
            raise StartError(_serve_messages())
        time.sleep(0.1)
    raise StartError(
        f"not ready after {_READY_WITHIN_S:.0f} s; the logs are in {logs}\n{_serve_messages()}"
    )


def _reachable(host: str) -> str:
    """An address of this machine that a client can use."""
    return "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104


def _serve_messages() -> str:
    from ray import serve  # noqa: PLC0415

    lines = []
    for application in serve.status().applications.values():
        lines += [application.message, *(d.message for d in application.deployments.values())]
    return "\n".join(filter(None, lines))


def _wait_for_the_node(port: int) -> None:
    """Return when the raylet has ended. It ends with its agents too."""
    raylets = [each for each in processes(port) if each.name() == "raylet"]
    psutil.wait_procs(raylets)


def _shut_down(port: int, *, kill_only: bool) -> None:
    if "ray" in sys.modules and not kill_only:
        import ray  # noqa: PLC0415
        from ray import serve  # noqa: PLC0415

        if ray.is_initialized():
            serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()
    kill([process for process in processes(port) if process.pid != os.getpid()])


def _remove(left: list[psutil.Process], description: str) -> None:
    if left:
        say(f"removing {description} ({len(left)} processes)")
        kill(left)


def _handle_signals(handler: Any) -> None:
    """Handle Ctrl-C, `kill` and a closed terminal alike."""
    for number in _SIGNALS:
        signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    _interrupted.set()  # a destructor may swallow the exception
    raise KeyboardInterrupt


@contextmanager
def _signals_held() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()

"""Starts the service on this machine, and stops it without leaving a process or a busy port.

Every process of a service names its run directory: in its environment, or, where Ray overwrites
that with a title, as where its output goes. So what a killed service left behind is found and
removed; Serve's HAProxy, for one, outlives its driver and keeps the port.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from deployments.settings import PROJECT, check

_RUN = "MLC_RUN"
_READY_WITHIN_S = 120.0
_STOPPED_WITHIN_S = 60.0
# Above those that Serve's replicas may take, below those that the kernel gives to clients.
_FREE_PORTS = range(31_001, 32_768)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_interrupted = threading.Event()


class StartError(Exception):
    """The service can't be started; the text says why and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deployments.local", description=__doc__)
    parser.add_argument("command", choices=("start", "stop"))
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument(
        "--config", type=Path, default=PROJECT / "serve_config.yaml", help="a Serve config file"
    )
    args = parser.parse_args()
    _on_signals(_interrupt)
    try:
        if args.command == "stop":
            stop(args.port)
        elif os.environ.get(_RUN) != run_directory(args.port):
            # From its first moment this process, too, has Ray's settings and its run directory.
            command = [sys.executable, "-m", "deployments.local", *sys.argv[1:]]
            os.execve(sys.executable, command, _environment(args.port))  # noqa: S606
        else:
            start(args.host, args.port, args.config)
    except StartError as error:
        _say(f"error: {error}")
        return 1
    return 0


def start(host: str, port: int, config_file: Path) -> None:
    """Serve until interrupted.

    Raises:
        StartError: the port is taken, or the service does not come up.
    """
    others = [process for process in processes(port) if process.pid != os.getpid()]
    if any(_is_driver(process) for process in others):
        raise StartError(f"it runs on port {port} already; `make stop PORT={port}` stops it")
    _kill(others, "what an earlier, killed service left behind")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"{host}:{port} can't be listened on ({error.strerror}); choose another port "
                "with `make serve PORT=…`"
            ) from error
    config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    try:
        check(config)
    except ValueError as error:
        raise StartError(str(error)) from error
    shutil.rmtree(run_directory(port), ignore_errors=True)  # an earlier run's logs
    config["http_options"] = config.get("http_options", {}) | {"host": host, "port": port}
    began = time.monotonic()
    try:
        dashboard, logs = _start_ray(config)
        _say("loading the model …")
        _wait_until_ready(host, port, logs)
        _say(
            f"ready after {time.monotonic() - began:.0f} s\n"
            f"  page      http://{host}:{port}/\n"
            f"  try       curl -F image=@photo.jpg http://{host}:{port}/v1/classify\n"
            f"  change    RAY_AUTH_MODE=token .venv/bin/serve deploy --address {dashboard} CONFIG\n"
            f"  logs      {logs}\n"
            "  stop      Ctrl-C, or `make stop`"
        )
        while True:
            signal.pause()
    except KeyboardInterrupt:
        _say("stopping …")
    finally:
        # Once more Ctrl-C would leave the port busy: it can wait the few seconds.
        _on_signals(signal.SIG_IGN)
        _shut_down(port)
    _say("stopped")


def stop(port: int) -> None:
    """Stop the service on a port, and whatever of it is left."""
    found = list(processes(port))
    drivers = [process for process in found if _is_driver(process)]
    for driver in drivers:
        driver.send_signal(signal.SIGINT)
    psutil.wait_procs(drivers, timeout=_STOPPED_WITHIN_S)
    _kill(list(processes(port)), "what did not stop by itself")
    _say(f"stopped the service on port {port}" if found else f"nothing runs on port {port}")


def _start_ray(config: dict[str, Any]) -> tuple[str, str]:
    """Start Ray and hand it the config, as `serve deploy` does.

    Returns:
        The address of its dashboard, which takes configs, and the folder of Serve's logs.
    """
    _say("starting Ray …")
    with _signals_held():  # Ray half imported could not be shut down
        import ray  # noqa: PLC0415  (it reads the environment when imported)
        from ray import serve  # noqa: F401, PLC0415
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient  # noqa: PLC0415

    context = ray.init(
        include_dashboard=True, log_to_driver=False, logging_level=logging.WARNING,
        object_store_memory=100 * 2**20,  # photos go over gRPC, not through the store
        _temp_dir=os.environ[_RUN],
    )  # fmt: skip
    _on_signals(_interrupt)  # Ray has put handlers of its own in their place
    dashboard = f"http://{context.dashboard_url}"
    try:
        ServeSubmissionClient(dashboard).deploy_applications(config)
    except RuntimeError as error:
        raise StartError(f"Ray Serve refused the config: {error}") from error
    return dashboard, f"{os.environ[_RUN]}/session_latest/logs/serve"


def _wait_until_ready(host: str, port: int, logs: str) -> None:
    from ray import serve  # noqa: PLC0415

    until = time.monotonic() + _READY_WITHIN_S
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/readyz"  # noqa: S104
    while time.monotonic() < until:
        if _interrupted.is_set():
            raise KeyboardInterrupt
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
        if any(a.status == "DEPLOY_FAILED" for a in serve.status().applications.values()):
            raise StartError(_what_serve_says())
    raise StartError(
        f"not ready after {_READY_WITHIN_S:.0f} s; the logs are in {logs}\n{_what_serve_says()}"
    )


def _what_serve_says() -> str:
    from ray import serve  # noqa: PLC0415

    applications = serve.status().applications.values()
    texts = [text for a in applications for text in (a.message, *_messages(a.deployments))]
    return "\n".join(filter(None, texts))


def _messages(deployments: Mapping[str, Any]) -> list[str]:
    return [deployment.message for deployment in deployments.values()]


def _shut_down(port: int) -> None:
    if "ray" in sys.modules:
        import ray  # noqa: PLC0415
        from ray import serve  # noqa: PLC0415

        if ray.is_initialized():
            serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()
    _kill([p for p in processes(port) if p.pid != os.getpid()], None)


def _environment(port: int) -> dict[str, str]:
    """This process' environment, with cluster.env and what this machine needs where not set."""
    first = 20_000 + 50 * (port % 199)  # under the ports that the kernel gives to clients
    ports = (each for each in free_ports() if each != port)
    lines = (PROJECT / "cluster.env").read_text(encoding="utf-8").splitlines()
    return (
        dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        | {
            # HAProxy listens there on every interface; two services must not collide.
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(next(ports)),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(next(ports)),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(next(ports)),
            # Replicas listen there. Were the ranges of two services the same, HAProxy would for
            # a moment send requests to the other's replica, on a port that ours failed to get.
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 49),
            # One HAProxy on the same machine learns at once that a replica leaves.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        }
        | os.environ
        | {
            # Replicas import this project wherever they start.
            "PYTHONPATH": os.pathsep.join(
                filter(None, (str(PROJECT), os.environ.get("PYTHONPATH")))
            ),
            _RUN: run_directory(port),
        }
    )


def free_ports() -> Iterator[int]:
    """Ports that nothing listens on, in no order, none twice.

    Not those that the kernel names when asked for any: a moment later it gives the same one to a
    connection, and of Ray's many processes one may be faster than whoever asked.
    """
    for port in random.sample(_FREE_PORTS, len(_FREE_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers bind
            with suppress(OSError):
                probe.bind(("0.0.0.0", port))  # noqa: S104  (nobody is listened to)
                yield port


def run_directory(port: int) -> str:
    """Its own for each checkout and port; short, since the names of Ray's sockets start with it."""
    checkout = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:8]
    return str(Path(tempfile.gettempdir()) / f"mlc-{checkout}-{port}")


def processes(port: int) -> Iterator[psutil.Process]:
    """Every process of this checkout's service on a port, this one included if it started it."""
    run = run_directory(port)
    for process in psutil.process_iter():
        try:
            output = Path(f"/proc/{process.pid}/fd/1").readlink()
            if output.is_relative_to(run) or process.environ().get(_RUN) == run:
                yield process
        except (OSError, psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has ended, or is another user's


def _is_driver(process: psutil.Process) -> bool:
    return "deployments.local" in process.cmdline()


def _kill(processes: list[psutil.Process], what: str | None) -> None:
    if processes and what:
        _say(f"removing {what} ({len(processes)} processes)")
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def _on_signals(handler: Any) -> None:
    """Ctrl-C, `kill` and a closed terminal all end the service the same way."""
    for number in _SIGNALS:
        signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    _interrupted.set()  # the exception may be raised in a destructor, which swallows it
    raise KeyboardInterrupt


@contextmanager
def _signals_held() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

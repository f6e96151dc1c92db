"""Services of this checkout that tests start and stop: as users do, each on a free port."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from launcher.service import free_ports, processes, run_directory

PROJECT = Path(__file__).parents[2]
START_WITHIN_S = 150
STOP_WITHIN_S = 90
_PORTS = free_ports()


def free_port() -> int:
    return next(_PORTS)


def environment(**extra: str) -> dict[str, str]:
    """This process' environment without what a cluster elsewhere on this machine may have set."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return clean | extra


def wait_until(holds: Callable[[], object], what: str, within_s: float) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, f"not within {within_s} s: {what}"
        time.sleep(0.05)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  (http, ours)
            return response.status == 200
    except OSError:
        return False


needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="prometheus is not installed; scripts/install-test-packages does it",
)


class Running:
    """A command in the background, in a process group of its own, its output in a file."""

    def __init__(self, command: list[str], output: Path, env: dict[str, str] | None = None) -> None:
        self._output = output
        # A shell that runs the tests in its background has them ignore Ctrl-C, and all they start.
        command = ["env", "--default-signal=INT", *command]
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                cwd=PROJECT, env=env or environment(), start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, text: str, within_s: float = START_WITHIN_S) -> None:
        """Return when `text` stands in the output; fail when the command ends without it."""

        def said() -> bool:
            ended = self._process.poll() is not None
            if text in self.output:
                return True
            assert not ended, f"ended without saying {text!r}: {self.output}"
            return False

        try:
            wait_until(said, repr(text), within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said: {self.output}") from None

    def press_ctrl_c(self) -> None:
        """As a terminal does: to every process in the foreground."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, within_s: float = STOP_WITHIN_S) -> int:
        """The exit code."""
        return self._process.wait(within_s)


class Service(Running):
    """`make serve` on a port of its own."""

    def __init__(self, output: Path, config: Path | None = None, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "launcher.service", "start", "--port", str(self.port)]
        if config:
            command += ["--config", str(config)]
        super().__init__(command, output)

    def wait_until_ready(self) -> Self:
        self.wait_for("ready after")
        return self

    def stop(self) -> None:
        """Ctrl-C, then see that it left nothing."""
        self.press_ctrl_c()
        code = self.wait()
        assert code == 0, self.output
        self.assert_nothing_left()
        # Its logs, which only a failed test needs.
        shutil.rmtree(run_directory(self.port), ignore_errors=True)

    def assert_nothing_left(self) -> None:
        assert left_over(self.port) == []
        with socket.socket() as probe:
            # As a server binds: connections that are closing don't count, listeners do.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("0.0.0.0", self.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever a failed test left running ends here."""
        for process in processes(self.port):
            process.kill()
        self.wait()


def bench(module: str, folder: Path, *options: str, within_s: float) -> dict[str, Any]:
    """Run a bench that leaves its report in a folder; its line of JSON."""
    command = [sys.executable, "-m", f"bench.{module}", *options, "--out", str(folder)]
    running = Running(command, folder / "output")
    try:
        assert running.wait(within_s) == 0, running.output
    except subprocess.TimeoutExpired:
        running.press_ctrl_c()  # so that it stops the services it measures
        running.wait()
        raise
    (line,) = [line for line in running.output.splitlines() if line.startswith('{"machine"')]
    return json.loads(line)


def left_over(port: int) -> list[str]:
    """The processes of the service on a port, by their command lines."""
    names = []
    for process in processes(port):
        try:
            names.append(" ".join(process.cmdline()) or process.name())
        except psutil.NoSuchProcess:
            continue
    return names


def tool(name: str) -> str:
    """A command that was installed beside this Python."""
    return str(Path(sys.executable).with_name(name))

"""Services and commands of this checkout that tests start and stop, as users do."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher import service
from launcher.processes import free_ports, processes

PROJECT = Path(__file__).parents[2]
START_WITHIN_S = service.START_WITHIN_S
STOP_WITHIN_S = service.STOP_WITHIN_S
_PORTS = free_ports()


def free_port() -> int:
    return next(_PORTS)


def environment(**extra: str) -> dict[str, str]:
    """This process' environment, without the variables of another Ray cluster."""
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


class Service(service.Service):
    """`make serve` on a free port. A test fails if it leaves a process or a busy port behind."""

    def stop(self) -> int:
        code = super().stop()
        assert code == 0, self.output
        self.assert_nothing_left()
        return code

    def assert_nothing_left(self) -> None:
        assert left_over(self.port) == []
        with socket.socket() as probe:
            # As a server binds: connections that are closing don't count, listeners do.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("0.0.0.0", self.port))


class Running:
    """A command in the background, in a new process group, with its output in a file."""

    def __init__(
        self,
        command: list[str],
        output: Path,
        env: dict[str, str] | None = None,
        cwd: Path = PROJECT,
    ) -> None:
        self._output = output
        # A shell that runs the tests in its background makes its children ignore Ctrl-C.
        command = ["env", "--default-signal=INT", *command]
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                cwd=cwd, env=env or environment(), start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, text: str, within_s: float = START_WITHIN_S) -> None:
        """Return when `text` is in the output; fail if the command ends without it."""

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
        """Send SIGINT to every process of the group, as a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self, within_s: float = STOP_WITHIN_S) -> int:
        """The exit code."""
        return self._process.wait(within_s)


def bench(command: list[str], folder: Path, within_s: float) -> dict[str, Any]:
    """Run a bench of the Makefile with its report in `folder`; return its line of JSON."""
    return line_of(with_args(command, "--out", str(folder)), folder, within_s)


def line_of(command: list[str], folder: Path, within_s: float) -> dict[str, Any]:
    """Run a bench of the Makefile with its output in `folder`; return its line of JSON."""
    running = Running(command, folder / "output")
    try:
        assert running.wait(within_s) == 0, running.output
    except subprocess.TimeoutExpired:
        running.press_ctrl_c()  # so that it stops the services it measures
        running.wait()
        raise
    (line,) = [line for line in running.output.splitlines() if line.startswith('{"machine"')]
    return json.loads(line)


def with_args(command: list[str], *args: str) -> list[str]:
    """A `make` command with more ARGS."""
    given = [word.removeprefix("ARGS=") for word in command if word.startswith("ARGS=")]
    rest = [word for word in command if not word.startswith("ARGS=")]
    return [*rest, f"ARGS={' '.join([*given, *map(shlex.quote, args)])}"]


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
    """The path of a command that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))

"""Runs a service as a child process, started as users start it, for tests and benches."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from deployments.serve_config import ServeConfig
from deployments.settings import PROJECT
from launcher.processes import free_ports, kill, processes, run_directory

START_WITHIN_S = 150.0
STOP_WITHIN_S = 90.0
_PORTS = free_ports()


class Service:
    """`make serve` on a port of its own. As a context manager it starts, waits and stops.

    Args:
        config: a Serve config file; serve_config.yaml when None.
        env: variables that override cluster.env and this process' environment.
        port: a free one when None.

    Attributes:
        ready_s: seconds from the start to the first ready answer.
    """

    def __init__(
        self,
        config: Path | None = None,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self.port = port or next(_PORTS)
        self.url = f"http://127.0.0.1:{self.port}"
        self.ready_s = 0.0
        self._command = [sys.executable, "-m", "launcher", "start", "--port", str(self.port)]
        if config:
            self._command += ["--config", str(config)]
        # Settings of another cluster on this machine must not reach this one.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self._env = clean | dict(env or {})
        self._log = Path(tempfile.mkdtemp(prefix="mlc-service-")) / "output"
        self._log.touch()
        weakref.finalize(self, shutil.rmtree, self._log.parent)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The driver's process."""
        if self._process is None:
            raise RuntimeError("the service has not been started")
        return self._process

    @property
    def output(self) -> str:
        """What the launcher has printed so far."""
        return self._log.read_text(errors="replace")

    @property
    def run_directory(self) -> Path:
        return Path(run_directory(self.port))

    @property
    def logs(self) -> Path:
        """The folder of Serve's logs."""
        return self.run_directory / "session_latest/logs/serve"

    def start(self) -> Self:
        """Start it, without waiting."""
        # A shell that runs this in its background makes its children ignore Ctrl-C.
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["env", "--default-signal=INT", *self._command],
                cwd=PROJECT, env=self._env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return self

    def wait_for(self, text: str, within_s: float = START_WITHIN_S) -> None:
        """Return when the launcher has printed `text`.

        Raises:
            RuntimeError: it ended without printing it, or did not print it within `within_s`. The
                text has what it printed.
        """
        until = time.monotonic() + within_s
        while text not in self.output:
            ended = self.process.poll() is not None
            if text in self.output:
                return
            if ended or time.monotonic() > until:
                why = "it ended" if ended else f"not within {within_s} s"
                raise RuntimeError(f"the launcher did not print {text!r}, {why}: {self.output}")
            time.sleep(0.05)

    def wait_until_ready(self) -> Self:
        began = time.monotonic()
        self.wait_for("  stop      Ctrl-C")
        self.ready_s = time.monotonic() - began
        return self

    def wait(self, within_s: float = STOP_WITHIN_S) -> int:
        """Wait until it ends by itself; return its exit code."""
        return self.process.wait(within_s)

    def stop(self) -> int:
        """Press Ctrl-C and wait; return its exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.wait()

    def deploy(self, config: ServeConfig) -> None:
        """Run `serve deploy`. It returns when Serve has accepted the config, before it is applied.

        Raises:
            RuntimeError: Serve refused it.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(config.listening("127.0.0.1", self.port).to_yaml())
            file.flush()
            self._serve("deploy", file.name)

    def status(self) -> str:
        """What `serve status` prints."""
        return self._serve("status")

    def _serve(self, command: str, *arguments: str) -> str:
        serve = Path(sys.executable).with_name("serve")
        (address,) = re.findall(r"--address (\S+)", self.output)
        done = subprocess.run(
            [serve, command, "--address", address, *arguments],
            check=False, capture_output=True, text=True,
            env=self._env | {"RAY_AUTH_MODE": "token"},  # as `ray.init` sets a cluster up
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        return done.stdout

    def __enter__(self) -> Self:
        try:
            return self.start().wait_until_ready()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            self.remove()

    def remove(self) -> None:
        """Kill processes that still run, and delete the run directory with its logs."""
        kill(list(processes(self.port)))
        if self._process is not None:
            self._process.wait(STOP_WITHIN_S)
        shutil.rmtree(self.run_directory, ignore_errors=True)

"""Runs one peer, and reads the labels that a server answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from bench.peers.errors import PeerError
from bench.peers.settings import PeerSettings

# The command that starts each peer, without the port.
_COMMANDS = {
    "mosec": ("bench.peers.mosec_app", "--address", "127.0.0.1", "--log-level", "warning"),
    "fastapi": ("uvicorn", "--factory", "bench.peers.fastapi_app:build",
                "--log-level", "warning", "--no-access-log"),
    "litserve": ("bench.peers.litserve_app",),
}  # fmt: skip
NAMES = tuple(_COMMANDS)
_READY_WITHIN_S = 60.0
_STOPPED_WITHIN_S = 20.0

Labels = dict[str, str]  # head -> label


class Peer:
    """One peer, from start to stop, on a port of its own.

    Args:
        name: one of NAMES.
        python: the Python of the peers' environment.
        root: the root of this repository.
        photo: the peer is ready when it answers this photo.
    """

    def __init__(
        self, name: str, python: Path, root: Path, port: int, settings: PeerSettings, photo: bytes
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._name, self._root, self._photo = name, root, photo
        self._command: list[str | Path] = [python, "-m", *_COMMANDS[name], "--port", str(port)]
        self._environment = os.environ | settings.to_environment()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (for as long as the server)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, cwd=self._root, env=self._environment,
            stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOPPED_WITHIN_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # also workers that outlive the server
        self._process.wait()
        self._output.close()

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds spent so far, by process id."""
        main, spent = psutil.Process(self._process.pid), {}
        for process in (main, *main.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent[str(process.pid)] = times.user + times.system
        return spent

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise PeerError(f"{self._name} did not start\n{self._said()}")
            try:
                labels(self.url, self._photo)
                return
            except OSError:  # it does not listen yet, or answers an error
                time.sleep(0.1)
        raise PeerError(
            f"{self._name} did not answer a photo in {_READY_WITHIN_S:.0f} s\n{self._said()}"
        )

    def _said(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")


def labels(url: str, photo: bytes) -> Labels:
    """The labels that a server, ours or a peer, names for a photo.

    Raises:
        OSError: it does not answer, or answers an error.
    """
    request = urllib.request.Request(  # noqa: S310  (http, ours)
        f"{url}/v1/classify", photo, {"Content-Type": "image/jpeg"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        heads = json.load(answer)["labels"]
    return {head: found["label"] for head, found in heads.items()}

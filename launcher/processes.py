"""Finds the processes of a service on this machine, and free ports.

Every process of a service names its run directory in its environment. Where Ray overwrites the
environment with a title, the process' output still goes to that directory. So `stop` and the next
start also find what a killed service left behind. For example, Serve's HAProxy outlives its driver
and keeps the port.
"""

from __future__ import annotations

import hashlib
import random
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from deployments.settings import PROJECT

RUN = "MLC_RUN"  # in the environment: the run directory
# Above the ports that Serve's replicas may take, below those that the kernel gives to clients.
_FREE_PORTS = range(31_001, 32_400)
# The ports of Ray's agents are chosen after Serve's, but before Serve listens on those. So they
# have a range of their own.
AGENT_PORTS = range(32_400, 32_768)


def run_directory(port: int) -> str:
    """The directory of a service's logs and sockets, one for each checkout and port.

    It is short, since the names of Ray's sockets start with it.
    """
    checkout = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:8]
    return str(Path(tempfile.gettempdir()) / f"mlc-{checkout}-{port}")


def processes(port: int) -> Iterator[psutil.Process]:
    """Every process of this checkout's service on a port, its driver included."""
    run = run_directory(port)
    for process in psutil.process_iter():
        try:
            output = Path(f"/proc/{process.pid}/fd/1").readlink()
            # psutil stops at the gap that Ray's title leaves in the environment.
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if output.is_relative_to(run) or f"{RUN}={run}".encode() in environment:
                yield process
        except (OSError, psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it has ended, or belongs to another user


def is_driver(process: psutil.Process) -> bool:
    """Whether it is the process that `python -m launcher start` runs in."""
    return process.cmdline()[1:4] == ["-m", "launcher", "start"]


def kill(victims: Sequence[psutil.Process]) -> None:
    """Kill processes and wait until they are gone."""
    for process in victims:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(victims, timeout=10)


def free_ports(of: range = _FREE_PORTS) -> Iterator[int]:
    """Ports that no process listens on, in random order, each once.

    They are not from the kernel's range: the kernel may give such a port to the next connection
    that one of Ray's many processes opens.
    """
    for port in random.sample(of, len(of)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers bind
            with suppress(OSError):
                probe.bind(("0.0.0.0", port))  # noqa: S104  (it never listens)
                yield port

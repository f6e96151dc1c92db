"""Starts Ray's agents again when they are killed. `python -m launcher.agents COMMAND …` runs one.

Each node of Ray has two agents, children of its raylet: for metrics and the dashboard, and for
environments. When one ends, the raylet ends too, with everything on the node (compiled into Ray
2.60). Here the raylet's child is this small process, which outlives the agent.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from launcher.processes import AGENT_PORTS, RUN, free_ports

_OPTIONS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")  # of the raylet
_ANY_PORT = ("--grpc-port=0", "--listen-port=0", "--runtime-env-agent-port=0",
             "--metrics-export-port=0")  # fmt: skip


def supervise_agents() -> None:
    """Have each raylet that this process starts from now on run its agents by this module."""
    from ray._private import services  # noqa: PLC0415

    start = services.start_ray_process

    @functools.wraps(start)
    def start_supervised(command: list[str], *args: Any, **kwargs: Any) -> Any:
        return start([supervised(word) for word in command], *args, **kwargs)

    services.start_ray_process = start_supervised


def supervised(word: str) -> str:
    """A word of the raylet's command; one that names an agent's command runs it by this module."""
    for option in _OPTIONS:
        if word.startswith(option):
            runner = subprocess.list2cmdline([sys.executable, "-m", __name__])
            return f"{option}{runner} {word.removeprefix(option)}"
    return word


def run(command: list[str], raylet: int, start: Callable[..., Any] = subprocess.Popen) -> int:
    """Run an agent until it ends by itself or the raylet ends; return its exit status."""
    raylet_fd = os.pidfd_open(raylet)
    agent = None

    def stop(*_: object) -> None:
        if agent is not None:
            agent.kill()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    # An agent ends when its parent is not the process that this names. Its title overwrites the
    # beginning of its environment, so what `processes` looks for comes last.
    environment = os.environ | {"RAY_RAYLET_PID": str(os.getpid())}
    environment |= {RUN: environment.pop(RUN, "")}
    while True:
        agent = start(command, env=environment)
        poll = select.poll()
        for fd in (raylet_fd, agent_fd := os.pidfd_open(agent.pid)):
            poll.register(fd, select.POLLIN)
        ended = {fd for fd, _ in poll.poll()}
        os.close(agent_fd)
        if raylet_fd in ended:
            agent.kill()
            return 0
        if (status := agent.wait()) >= 0:
            return int(status)  # not killed: the raylet must know


def with_ports(command: list[str]) -> list[str]:
    """The command with a port wherever it leaves the choice to the agent.

    Others on the node learn the agent's ports once, so it must have them again.
    """
    ports = free_ports(AGENT_PORTS)
    return [
        f"{word.removesuffix('0')}{next(ports)}" if word in _ANY_PORT else word for word in command
    ]


if __name__ == "__main__":
    sys.exit(run(with_ports(sys.argv[1:]), os.getppid()))

"""Starts Ray's agents again when they are killed. `python -m launcher.agents COMMAND …` runs one.

Each node of Ray has two agents, children of its raylet: for metrics and the dashboard, and for
environments. When one ends, the raylet ends too, with everything on the node (compiled into Ray
2.60). Here the raylet's child is this small process, which outlives the agent.
"""

from __future__ import annotations

import functools
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from launcher.processes import AGENT_PORTS, RUN, free_ports

_OPTIONS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")  # of the raylet
_ANY_PORT = re.compile(
    r"(--(?:grpc-port|listen-port|runtime-env-agent-port|metrics-export-port)=)0(?!\S)"
)


def supervise_agents() -> None:
    """Have each raylet that this process starts from now on run its agents by this module."""
    from ray._private import services  # noqa: PLC0415

    start = services.start_ray_process

    @functools.wraps(start)
    def start_supervised(command: list[str], *args: Any, **kwargs: Any) -> Any:
        return start(supervised(command, free_ports(AGENT_PORTS)), *args, **kwargs)

    services.start_ray_process = start_supervised


def supervised(command: Sequence[str], ports: Iterator[int]) -> list[str]:
    """A raylet's command that runs its agents by this module, each with ports of its own.

    Ray leaves most ports to the agents. Others on the node learn them once, so an agent that starts
    again must have them again. Two agents that both looked for free ports could choose the same.
    """
    runner = subprocess.list2cmdline([sys.executable, "-m", __name__])
    words = []
    for word in command:
        if word.startswith(_OPTIONS):
            option, agent = word.split("=", 1)
            agent = _ANY_PORT.sub(lambda match: f"{match[1]}{next(ports)}", agent)
            words.append(f"{option}={runner} {agent}")
        else:
            words.append(word)
    return words


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


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], os.getppid()))

"""Claims about what keeps Ray's agents running."""

import os
import signal
import subprocess
import sys

import psutil
from services import wait_until

from launcher.agents import supervised

AGENT = [sys.executable, "-c", "import time; time.sleep(600)"]


def supervisor(*command):
    """The supervisor of a command, and a process in the place of the raylet."""
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'launcher.agents', *sys.argv[1:]])\n"
        "print(child.pid, flush=True)\n"
        "sys.exit(child.wait())\n"
    )
    raylet = subprocess.Popen([sys.executable, "-c", code, *command], stdout=subprocess.PIPE)
    return raylet, psutil.Process(int(raylet.stdout.readline()))


def agent_of(process):
    wait_until(process.children, "the agent runs", 20)
    return process.children()[0]


def test_an_agent_that_is_killed_runs_again_and_ends_with_the_raylet():
    raylet, process = supervisor(*AGENT)
    first = agent_of(process)
    first.kill()
    wait_until(lambda: [p.pid for p in process.children()] not in ([], [first.pid]), "another", 20)
    second = agent_of(process)
    assert second.environ()["RAY_RAYLET_PID"] == str(process.pid)
    raylet.kill()
    raylet.wait()
    psutil.wait_procs([second, process], timeout=20)
    assert not second.is_running()
    assert not process.is_running()
    raylet.stdout.close()


def test_an_agent_that_ends_by_itself_ends_its_supervisor_with_its_status():
    raylet, _ = supervisor(sys.executable, "-c", "raise SystemExit(3)")
    assert raylet.wait(20) == 3
    raylet.stdout.close()


def test_a_raylet_that_stops_its_agents_stops_them():
    raylet, process = supervisor(*AGENT)
    agent = agent_of(process)
    os.kill(process.pid, signal.SIGTERM)
    psutil.wait_procs([agent], timeout=20)
    assert not agent.is_running()
    raylet.wait(20)
    raylet.stdout.close()


def test_only_the_commands_of_agents_are_changed():
    plain = ["raylet", "--node_ip_address=10.0.0.1", "--python_worker_command=w.py --grpc-port=0"]
    assert supervised(plain, iter(())) == plain
    (changed,) = supervised(["--dashboard_agent_command=python agent.py"], iter(()))
    assert changed.startswith("--dashboard_agent_command=")
    assert changed.endswith(" -m launcher.agents python agent.py")


def test_the_ports_that_are_left_to_the_agents_of_a_raylet_are_all_different():
    dashboard, environments = supervised(
        [
            "--dashboard_agent_command=agent.py --grpc-port=0 --listen-port=52365 "
            "--metrics-export-port=0",
            "--runtime_env_agent_command=agent.py --runtime-env-agent-port=0 --gcs-address=a:06",
        ],
        iter((32_401, 32_402, 32_403)),
    )
    assert dashboard.endswith(
        " agent.py --grpc-port=32401 --listen-port=52365 --metrics-export-port=32402"
    )
    assert environments.endswith(" agent.py --runtime-env-agent-port=32403 --gcs-address=a:06")

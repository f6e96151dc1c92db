"""Pods without Kubernetes: Ray's nodes, each with its own network and processes.

tests/e2e/test_pods.py runs it in namespaces that end with it. It prints its findings as JSON:

    python pods.py < ASKED
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from photos import jpeg

HEAD, FRONT, CLASSIFIER, SPARE = (f"10.9.0.{n}" for n in (2, 3, 4, 5))
TOKEN = "of-32-letters-or-more-and-nobodys"  # noqa: S105
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


def status(url: str, body: bytes | None = None, *, token: bool = False) -> int:
    """The status of the answer; 0 if there is none."""
    headers = {"Content-Type": "image/jpeg"} if body else {}
    if token:
        headers["x-ray-authorization"] = f"Bearer {TOKEN}"
    request = urllib.request.Request(url, body, headers)  # noqa: S310
    try:
        with _open(request, timeout=15) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_for(holds, within_s: float) -> None:
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.2)


class Pod:
    """`ray start --block`, as KubeRay runs it."""

    def __init__(self, address: str, folder: Path, env: dict[str, str], *options: str) -> None:
        name = self._name = address.rpartition(".")[2]
        run(f"ip netns add {name}")
        run(f"ip link add v{name} type veth peer name eth0 netns {name}")
        run(f"ip link set v{name} master bridge up")
        run(f"ip -n {name} addr add {address}/24 dev eth0")
        for link in ("eth0", "lo"):
            run(f"ip -n {name} link set {link} up")
        run(f"ip -n {name} route add default via 10.9.0.1")
        start = [
            str(Path(sys.executable).with_name("ray")), "start", "--block",
            f"--node-ip-address={address}", f"--temp-dir={folder / name}",
            "--object-store-memory=104857600", "--metrics-export-port=8080",
            "--dashboard-agent-listen-port=52365", *options,
        ]  # fmt: skip
        with (folder / f"{name}.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", name, "unshare", "--pid", "--fork", "--mount-proc", *start],
                env=env, stdout=log, stderr=log,
            )  # fmt: skip

    def cut_off(self) -> None:
        """Take its link down, so that no packet reaches or leaves it."""
        run(f"ip link set v{self._name} down")

    def kill(self) -> None:
        """Kill every process of it at once, and keep its network."""
        os.kill(self._first(), signal.SIGKILL)
        self._process.wait(30)

    def _first(self) -> int:
        pid = self._process.pid
        (first,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(first)

    def terminate(self) -> float:
        """Send SIGTERM to its first process, as the kubelet does; return the seconds it took."""
        began = time.monotonic()
        os.kill(self._first(), signal.SIGTERM)
        self._process.wait(150)
        return time.monotonic() - began


class Shopper(threading.Thread):
    """Sends one photo after the other."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.answers: collections.Counter[int] = collections.Counter()
        self._url, self._over = url, threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.answers[status(self._url, jpeg())] += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


def placed() -> dict[str, list[tuple[str, str]]]:
    """{deployment: [(state, address) of each replica]}; a replica without a node has "" for it."""
    url = f"http://{HEAD}:8265/api/serve/applications/"
    request = urllib.request.Request(url, headers={"x-ray-authorization": f"Bearer {TOKEN}"})
    with _open(request, timeout=15) as answer:
        (application,) = json.load(answer)["applications"].values()
    return {
        name: sorted(
            (replica["state"], replica.get("node_ip") or "") for replica in each["replicas"]
        )
        for name, each in application["deployments"].items()
    }


def network(asked: Mapping[str, Any]) -> tuple[Path, dict[str, str]]:
    """Make the bridge that pods are plugged into; the folder and the environment of Ray."""
    run("mount -t tmpfs tmpfs /run")  # ip keeps the names of namespaces there
    for command in ("add bridge type bridge", "set bridge up", "set lo up"):
        run(f"ip link {command}")
    run("ip addr add 10.9.0.1/24 dev bridge")
    env = os.environ | asked["env"] | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    env["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(Path(sys.executable).with_name("mlc-haproxy"))
    return Path(asked["folder"]), env


def start_head(folder: Path, env: dict[str, str]) -> None:
    """The head of the cluster, on which nothing of Serve's replicas runs."""
    Pod(HEAD, folder, env, "--head", "--num-cpus=0", "--dashboard-host=0.0.0.0")
    wait_for(lambda: status(f"http://{HEAD}:8265/api/serve/applications/", token=True) == 200, 90)


def deploy(folder: Path, env: dict[str, str], config: str) -> None:
    (folder / "serve_config.yaml").write_text(config)
    serve = Path(sys.executable).with_name("serve")
    command = [serve, "deploy", "--address", f"http://{HEAD}:8265", folder / "serve_config.yaml"]
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    folder, env = network(asked)

    def worker(address: str, group: str) -> Pod:
        labels = ",".join(f"{k}={v}" for k, v in asked["groups"][group]["labels"].items())
        cpus = asked["groups"][group]["cpus"]
        options = (f"--address={HEAD}:6379", f"--num-cpus={cpus}", f"--labels={labels}")
        return Pod(address, folder, env, *options)

    start_head(folder, env)
    found: dict[str, Any] = {"without_token": status(f"http://{HEAD}:8265/api/serve/applications/")}
    front, _ = worker(FRONT, "front"), worker(CLASSIFIER, "classifier")
    deploy(folder, env, asked["config"])
    for address in (FRONT, CLASSIFIER):
        wait_for(lambda: status(f"http://{address}:8000{asked['readiness']}") == 200, 120)  # noqa: B023
    wait_for(lambda: status(f"http://{FRONT}:8000/readyz") == 200, 60)
    found["placed"] = placed()
    ports = {"health": "52365/api/healthz", "metrics": "8080/metrics"}
    found |= {
        name: [status(f"http://{address}:{port}") for address in (HEAD, FRONT, CLASSIFIER)]
        for name, port in ports.items()
    }
    worker(SPARE, "front")
    # This client uses the HAProxy of a pod that stays.
    shopper = Shopper(f"http://{CLASSIFIER}:8000/v1/classify")
    shopper.start()
    wait_for(lambda: shopper.answers[200] > 50, 60)
    found["drained_s"] = front.terminate()
    answered = shopper.answers[200]
    wait_for(lambda: shopper.answers[200] > answered + 50, 60)
    shopper.stop()
    found["answers"] = shopper.answers
    found["placed_then"] = placed()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()

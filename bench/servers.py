"""The services that are measured: started as users start them, weighed in /proc."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from deployments.local import free_ports, processes, run_directory
from deployments.settings import PROJECT

# Ray as it comes, whatever cluster.env says.
SLOW_FLAGS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "",
    "RAY_worker_niceness": "15",
}

_PORTS = free_ports()

Result = TypeVar("Result")


class Server:
    """One service, from start to stop, on a port of its own.

    Args:
        config: a Serve config file; serve_config.yaml when None.
        flags: environment that wins over cluster.env.
    """

    def __init__(self, config: Path | None = None, flags: dict[str, str] | None = None) -> None:
        self.port = next(_PORTS)
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "deployments.local", "start"]
        self._command += ["--port", str(self.port)]
        if config:
            self._command += ["--config", str(config)]
        self._flags = flags or {}
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  (for as long as the server)
        self.ready_s = 0.0

    def __enter__(self) -> Self:
        began = time.monotonic()
        self._process = subprocess.Popen(
            self._command, cwd=PROJECT, env=os.environ | self._flags,
            stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        while not self._ready():
            if self._process.poll() is not None:
                self._output.seek(0)
                raise RuntimeError(self._output.read().decode())
            time.sleep(0.05)
        self.ready_s = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def deploy(self, config: Path) -> None:
        """As `serve deploy` does; returns when Serve has taken it, not when it has done it.

        Raises:
            RuntimeError: Serve did not take it.
        """
        done = yaml.safe_load(config.read_text())
        done["http_options"] |= {"host": "127.0.0.1", "port": self.port}
        file = config.with_suffix(".deployed.yaml")
        file.write_text(yaml.safe_dump(done))
        serve = Path(sys.executable).with_name("serve")
        self._output.seek(0)
        (address,) = re.findall(r"--address (\S+)", self._output.read().decode())
        taken = subprocess.run(
            [serve, "deploy", "--address", address, file],
            check=False, capture_output=True, text=True,
            env=os.environ | {"RAY_AUTH_MODE": "token"},  # as `ray.init` sets a cluster up
        )  # fmt: skip
        if taken.returncode:
            raise RuntimeError(taken.stdout + taken.stderr)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds spent so far, by the name of each process."""
        spent: dict[str, float] = defaultdict(float)
        for process in processes(self.port):
            try:
                times = process.cpu_times()
                spent[_name(process)] += times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return spent

    def memory_bytes(self, measure: Literal["pss", "uss"] = "pss") -> dict[str, int]:
        """Memory by the name of each process: its proportional share (PSS), or its own (USS)."""
        used: dict[str, int] = defaultdict(int)
        for process in processes(self.port):
            try:
                used[_name(process)] += getattr(process.memory_full_info(), measure)
            except psutil.NoSuchProcess:
                continue
        return used

    def classifier_ready_s(self) -> float:
        """From the start of the classifier's process to its model being loaded and checked."""
        (started,) = (p.create_time() for p in processes(self.port) if _name(p) == "Classifier")
        logs = Path(run_directory(self.port)) / "session_latest/logs/serve"
        (log,) = logs.glob("replica_*_Classifier_*.log")
        lines = map(json.loads, log.read_text().splitlines())
        loaded = next(line for line in lines if " loaded with " in line["message"])
        return datetime.fromisoformat(loaded["asctime"].replace(",", ".")).timestamp() - started

    def batch_sizes(self) -> dict[str, dict[str, float]]:
        """How many groups and batches had up to so many items: queue -> upper bound -> count."""
        sizes: dict[str, dict[str, float]] = {}
        for sample in self.samples():
            if sample.name == "ray_mlc_batch_items_bucket":
                queue = sizes.setdefault(sample.labels["queue"], {})
                bound = sample.labels["le"]
                queue[bound] = queue.get(bound, 0) + sample.value
        return sizes

    def samples(self) -> Iterator[Sample]:
        """What Ray's agent exports; replicas tell it every ten seconds."""
        discovery = Path(run_directory(self.port)) / "prom_metrics_service_discovery.json"
        for address in json.loads(discovery.read_text())[0]["targets"]:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                yield from family.samples

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):  # noqa: S310
                return True
        except OSError:
            return False


def elsewhere(function: Callable[..., Result], *args: Any) -> Result:
    """Call a function in a process of its own.

    What this process maps, a service that it weighs would seem to share: ONNX Runtime is 22 MB.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def json_of(url: str) -> Any:
    """The JSON that a URL answers."""
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  (http, ours)
        return json.load(answer)


def _name(process: psutil.Process) -> str:
    """What a process is to the reader of a table."""
    command = " ".join(process.cmdline())
    replica = re.search(r"ServeReplica:\w+:(\w+)", command)
    if replica:
        return replica[1]
    for part, name in (
        ("haproxy -db", "HAProxy"),
        ("HAProxyManager", "HAProxyManager"),
        ("ServeController", "ServeController"),
        ("ProxyActor", "ProxyActor"),
        ("deployments.local", "launcher"),
        ("dashboard", "dashboard"),
        ("Dashboard", "dashboard"),
        ("raylet", "raylet"),
        ("gcs_server", "gcs_server"),
    ):
        if part in command:
            return name
    return "other Ray"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), "unknown",
    )  # fmt: skip
    import onnxruntime  # noqa: PLC0415
    import ray  # noqa: PLC0415

    return {
        "cpu": model, "cores": os.cpu_count(), "python": sys.version.split()[0],
        "ray": ray.__version__, "onnxruntime": onnxruntime.__version__,
    }  # fmt: skip

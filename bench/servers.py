"""Services that a bench starts as users do, and observes through /proc and metrics."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from deployments.telemetry.catalogue import BATCH_SIZE
from launcher.processes import processes
from launcher.service import Service

# Ray's defaults for HAProxy, throughput, middleware and niceness, instead of cluster.env's.
SLOW_FLAGS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "",
    "RAY_worker_niceness": "15",
}

Result = TypeVar("Result")


class Server(Service):
    """A service whose CPU time, memory and metrics can be read."""

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds spent so far, by the name of each process."""
        spent: dict[str, float] = defaultdict(float)
        for process in processes(self.port):
            try:
                times = process.cpu_times()
                spent[process_name(process)] += times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return spent

    def memory_bytes(self, measure: Literal["pss", "uss"] = "pss") -> dict[str, int]:
        """Memory by the name of each process: its proportional share (PSS), or its own (USS)."""
        used: dict[str, int] = defaultdict(int)
        for process in processes(self.port):
            try:
                used[process_name(process)] += getattr(process.memory_full_info(), measure)
            except psutil.NoSuchProcess:
                continue
        return dict(used)

    def classifier_ready_s(self) -> float:
        """From the start of the classifier's process to its model being loaded and checked."""
        (started,) = (
            p.create_time() for p in processes(self.port) if process_name(p) == "Classifier"
        )
        (log,) = self.logs.glob("replica_*_Classifier_*.log")
        lines = map(json.loads, log.read_text().splitlines())
        loaded = next(line for line in lines if " loaded with " in line["message"])
        return datetime.fromisoformat(loaded["asctime"].replace(",", ".")).timestamp() - started

    def batch_sizes(self) -> dict[str, dict[str, float]]:
        """Cumulative sizes of groups and batches: queue -> upper bound -> count."""
        sizes: dict[str, dict[str, float]] = {}
        for sample in self.samples():
            if sample.name == f"{BATCH_SIZE.exported}_bucket":
                queue = sizes.setdefault(sample.labels["queue"], {})
                bound = sample.labels["le"]
                queue[bound] = queue.get(bound, 0) + sample.value
        return sizes

    def samples(self) -> Iterator[Sample]:
        """The samples that Ray's agent exports. Replicas report to it every ten seconds."""
        discovery = self.run_directory / "prom_metrics_service_discovery.json"
        for address in json.loads(discovery.read_text())[0]["targets"]:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                yield from family.samples


def run_in_subprocess(function: Callable[..., Result], *args: Any) -> Result:
    """Call a function in another process.

    A library that this process maps counts as shared with the service that it measures. ONNX
    Runtime alone would take 22 MB off the service's USS (docs/LOG.md).
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def json_of(url: str) -> Any:
    """The JSON that a URL answers."""
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310  (http, ours)
        return json.load(answer)


def process_name(process: psutil.Process) -> str:
    """The name of a process in a table."""
    command = " ".join(process.cmdline())
    replica = re.search(r"ServeReplica:\w+:(\w+)", command)
    if replica:
        return replica[1]
    for part, name in (
        ("raylet/raylet --raylet", "raylet"),  # it names the commands of others
        ("mlc-haproxy", "mlc-haproxy"),
        ("launcher.agents", "launcher.agents"),
        ("haproxy -db", "HAProxy"),
        ("HAProxyManager", "HAProxyManager"),
        ("ServeController", "ServeController"),
        ("ProxyActor", "ProxyActor"),
        ("-m launcher start", "launcher"),
        ("DashboardAgent", "DashboardAgent"),
        ("RuntimeEnvAgent", "RuntimeEnvAgent"),
        ("dashboard", "dashboard"),
        ("Dashboard", "dashboard"),
        ("gcs_server", "gcs_server"),
    ):
        if part in command:
            return name
    return "other Ray"


def machine() -> dict[str, Any]:
    """The machine and versions that the figures hold for."""
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

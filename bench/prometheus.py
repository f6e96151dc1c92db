"""A real Prometheus with the project's rules, which scrapes a running service."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import yaml

from deployments.settings import PROJECT
from launcher.processes import free_ports

_READY_WITHIN_S = 30.0
_PORTS = free_ports()


class Prometheus:
    """`prometheus` on a free port, which scrapes and evaluates every second.

    Args:
        folder: where its configuration, data and log go.
        service_url: URL of the service; Prometheus scrapes its /metrics.

    Raises:
        FileNotFoundError: prometheus is not installed; scripts/install-test-packages installs it.
        RuntimeError: it did not start.
    """

    def __init__(self, folder: Path, service_url: str) -> None:
        targets = [{"targets": [urlsplit(service_url).netloc]}]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(PROJECT / "monitoring/rules.yaml")],
            "scrape_configs": [{"job_name": "mlc", "static_configs": targets}],
        }
        file, port = folder / "prometheus.yaml", next(_PORTS)
        file.write_text(yaml.safe_dump(config))
        command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}",
                   f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False
        )
        until = time.monotonic() + _READY_WITHIN_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise RuntimeError((folder / "prometheus.log").read_text())
            time.sleep(0.05)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression yields now."""
        return self._result("/api/v1/query", {"query": expression})

    def query_range(
        self, expression: str, start: float, end: float, step_s: float
    ) -> list[dict[str, Any]]:
        """The series that an expression yields from `start` to `end`, in Unix seconds."""
        parameters = {"query": expression, "start": start, "end": end, "step": step_s}
        return self._result("/api/v1/query_range", parameters)

    def rules(self) -> list[dict[str, Any]]:
        """Recording rules and alerts, with their health."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def raised(self) -> set[str]:
        """The alerts whose condition holds: those that fire, and those that are pending."""
        alerts = self._client.get("/api/v1/alerts").json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts}

    def _result(self, path: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self._client.get(path, params=parameters).json()
        if answer["status"] != "success":
            raise ValueError(f"{parameters['query']}: {answer['error']}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def _ready(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.kill()
        self._process.wait()

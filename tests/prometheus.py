"""A real Prometheus with the project's rules, that scrapes what a test runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from services import PROJECT, Running, answers, free_port, wait_until

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None,
    reason="prometheus is not installed; scripts/install-test-packages does it",
)


class Prometheus:
    """`prometheus` on a free port, told to scrape and to evaluate every second."""

    def __init__(self, folder: Path, service_url: str) -> None:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(PROJECT / "monitoring/rules.yaml")],
            "scrape_configs": [
                {
                    "job_name": "mlc",
                    "static_configs": [{"targets": [urlsplit(service_url).netloc]}],
                }
            ],
        }
        file = folder / "prometheus.yaml"
        file.write_text(yaml.safe_dump(config))
        port = free_port()
        command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}",
                   f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
        self._running = Running(command, folder / "prometheus.log")
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30, trust_env=False
        )
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/-/ready"), "Prometheus is ready", 30)

    def query(self, expression: str) -> list[dict]:
        """The series that an expression has now."""
        answer = self._client.get("/query", params={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        return answer["data"]["result"]

    def rules(self) -> list[dict]:
        groups = self._client.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def firing(self) -> set[str]:
        """The alerts that fire."""
        alerts = self._client.get("/alerts").json()["data"]["alerts"]
        return {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._client.close()
        self._running.kill()
        self._running.wait()

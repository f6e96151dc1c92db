"""Exports the findings of a run while it lasts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from locust.env import Environment
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from loadtest.findings import of


class _Run(Collector):
    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def collect(self) -> Iterator[Metric]:
        """Requests and failures by name, refusals, arrivals, users, latency of the last sample."""
        stats, runner = self._environment.stats, self._environment.runner
        findings = of(self._environment)
        requests = CounterMetricFamily("loadtest_requests", "Sent.", labels=("name",))
        failures = CounterMetricFamily("loadtest_failures", "Not answered well.", labels=("name",))
        for entry in list(stats.entries.values()):
            requests.add_metric((entry.name,), entry.num_requests)
            failures.add_metric((entry.name,), entry.num_failures)
        yield from (requests, failures)
        for name in ("refused", "arrivals", "dropped", "photos"):
            yield CounterMetricFamily(
                f"loadtest_{name}", "See Findings.counts.", value=findings.counts[name]
            )
        latency = GaugeMetricFamily(
            "loadtest_latency_seconds", "Of the last sample.", labels=("quantile",)
        )
        if findings.history:
            latency.add_metric(("0.5",), findings.history[-1]["p50_s"])
            latency.add_metric(("0.99",), findings.history[-1]["p99_s"])
        yield latency
        yield GaugeMetricFamily(
            "loadtest_users", "That run now.", value=runner.user_count if runner else 0
        )


def serve_metrics(environment: Environment, port: int) -> None:
    """Answer Prometheus on a port of this machine, for as long as the process lives."""
    registry = CollectorRegistry()
    registry.register(_Run(environment))
    start_http_server(port, addr="127.0.0.1", registry=registry)

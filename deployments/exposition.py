"""`GET /metrics`: what every node's agent exports of us, as one Prometheus text."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterable, Iterator, Sequence

import ray
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

PREFIXES = ("ray_mlc_", "ray_serve_")
_NODE_TIMEOUT_S = 1.0


async def exposition() -> bytes:
    """Ours and Serve's metrics of every node, one HELP and TYPE a family.

    A node that does not answer within a second is left out, and counted in
    `mlc_nodes_unreachable`.
    """
    nodes = await asyncio.to_thread(ray.nodes)
    urls = [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in nodes
        if node["Alive"]
    ]
    texts = await asyncio.gather(*(asyncio.to_thread(_fetch, url) for url in urls))
    return await asyncio.to_thread(merge, texts)


def merge(texts: Sequence[str | None]) -> bytes:
    """One text of what each node said; None is a node that said nothing."""
    families: dict[str, Metric] = {}
    for text in texts:
        for family in text_string_to_metric_families(_ours(text or "")):
            known = families.setdefault(family.name, family)
            if known is not family:
                known.samples.extend(family.samples)
    unreachable = GaugeMetricFamily("mlc_nodes_unreachable", "Nodes whose agent did not answer.")
    unreachable.add_metric([], sum(text is None for text in texts))
    registry = CollectorRegistry()
    registry.register(_Families([*families.values(), unreachable]))
    return generate_latest(registry)


class _Families:
    """What prometheus_client takes for a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _ours(text: str) -> str:
    """The lines that are ours; parsing the others would hold up photos."""
    lines = []
    for line in text.splitlines(keepends=True):
        name = line.split(" ", 3)[2] if line.startswith(("# HELP ", "# TYPE ")) else line
        if name.startswith(PREFIXES):
            lines.append(line)
    return "".join(lines)


def _fetch(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=_NODE_TIMEOUT_S) as answer:  # noqa: S310  (http)
            return str(answer.read().decode())
    except (OSError, ValueError):
        return None

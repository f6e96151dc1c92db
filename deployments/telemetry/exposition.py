"""`GET /metrics`: merges the metrics that every node's agent exports of this service."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence

import ray
from prometheus_client import CollectorRegistry, Gauge, generate_latest

PREFIXES = ("ray_mlc_", "ray_serve_")
_NODE_TIMEOUT_S = 1.0
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy between nodes


async def exposition() -> bytes:
    """Our metrics and Serve's of every node, with one HELP and TYPE for each family.

    A node that does not answer within a second is left out. `mlc_nodes_unreachable` counts it.
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
    """One text from those of all nodes; None is a node that did not answer.

    It copies lines as they are. Parsing and writing a node's 1,500 lines took the ingress 0.16 s
    at each scrape (docs/LOG.md, 2 cores, 2026-11), and blocked its event loop in that time.
    """
    heads: dict[str, dict[str, str]] = {}  # family -> HELP or TYPE -> its line
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        for line in (text or "").splitlines(keepends=True):
            if line.startswith("# "):
                _, kind, family, *_ = line.split(" ", 3)
                if family.startswith(PREFIXES):
                    heads.setdefault(family, {}).setdefault(kind, line)
            elif family.startswith(PREFIXES):
                samples.setdefault(family, []).append(line)
    lines = (line for f in heads for line in (*heads[f].values(), *samples.get(f, ())))
    registry = CollectorRegistry()
    unreachable = Gauge(
        "mlc_nodes_unreachable", "Nodes whose agent did not answer.", registry=registry
    )
    unreachable.set(sum(text is None for text in texts))
    return "".join(lines).encode() + generate_latest(registry)


def _fetch(url: str) -> str | None:
    try:
        with _opener.open(url, timeout=_NODE_TIMEOUT_S) as answer:
            return str(answer.read().decode())
    except (OSError, ValueError):
        return None

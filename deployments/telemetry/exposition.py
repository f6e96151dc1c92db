"""`GET /metrics`: merges the metrics that every node's agent exports of this service."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence

import ray
from prometheus_client import CollectorRegistry, Gauge, generate_latest

PREFIXES = (b"ray_mlc_", b"ray_serve_")
_NODE_TIMEOUT_S = 1.0
_FAMILY = b"\n# HELP "  # no label can hold it: a line break in one is written as \n
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


def merge(texts: Sequence[bytes | None]) -> bytes:
    """One text from those of all nodes; None is a node that did not answer.

    It copies families whole. Parsing and writing a node's 1,500 lines took the ingress 0.16 s at
    each scrape (docs/LOG.md, 2 cores, 2026-11), and blocked its event loop in that time.
    """
    families: dict[bytes, list[bytes]] = {}  # name -> HELP and TYPE, then the samples of each node
    for text in texts:
        for family in b"\n".join((b"", text or b"")).rstrip(b"\n").split(_FAMILY)[1:]:
            if family.startswith(PREFIXES):
                name, _, _ = family.partition(b" ")
                help_line, type_line, *samples = family.split(b"\n", 2)
                families.setdefault(name, [_FAMILY[1:] + help_line, type_line]).extend(samples)
    registry = CollectorRegistry()
    unreachable = Gauge(
        "mlc_nodes_unreachable", "Nodes whose agent did not answer.", registry=registry
    )
    unreachable.set(sum(text is None for text in texts))
    parts = [part for family in families.values() for part in family]
    return b"\n".join((*parts, generate_latest(registry)))


def _fetch(url: str) -> bytes | None:
    try:
        with _opener.open(url, timeout=_NODE_TIMEOUT_S) as answer:
            return bytes(answer.read())
    except (OSError, ValueError):
        return None

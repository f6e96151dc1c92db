"""The environment of a local service: cluster.env, and what several services on a machine need."""

from __future__ import annotations

import os

from deployments.settings import LISTEN_HOST, PROJECT
from launcher.processes import RUN, free_ports, run_directory


def cluster_env() -> dict[str, str]:
    """The variables of cluster.env."""
    lines = (PROJECT / "cluster.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def service_environment(port: int) -> dict[str, str]:
    """This process' environment; cluster.env and what a local service needs where it is not set."""
    first = 20_000 + 50 * (port % 199)  # below the ports that the kernel gives to clients
    ports = (each for each in free_ports() if each != port)
    path = filter(None, (str(PROJECT), os.environ.get("PYTHONPATH")))
    return (
        cluster_env()
        | {
            # HAProxy listens there on every interface; two services must not collide.
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(next(ports)),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(next(ports)),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(next(ports)),
            # Replicas listen there. If two services shared a range, HAProxy would for a moment
            # send requests to a replica of the other, on a port that ours failed to get.
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 49),
            # Replicas listen for groups there.
            LISTEN_HOST: "127.0.0.1",
            # The one HAProxy on this machine learns at once that a replica leaves.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        }
        | os.environ
        | {"PYTHONPATH": os.pathsep.join(path), RUN: run_directory(port)}
    )

"""The environment of a local service: cluster.env, and ports that no other service uses."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from deployments.http import haproxy
from deployments.settings import LISTEN_HOST, PROJECT
from launcher.processes import RUN, free_ports, run_directory


def cluster_env() -> dict[str, str]:
    """The variables of cluster.env."""
    lines = (PROJECT / "cluster.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def service_environment(port: int) -> dict[str, str]:
    """This process' environment. Variables that it lacks come from cluster.env and from here."""
    # Below the ports that the kernel gives to clients.
    first, first_grpc = 20_000 + 50 * (port % 199), 30_000 + 10 * (port % 199)
    ports = (each for each in free_ports() if each != port)
    shipped = cluster_env()
    # HAProxy does not start unless it may open 2.5 files for each client.
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    clients = int(shipped["RAY_SERVE_HAPROXY_MAXCONN"])
    if files != resource.RLIM_INFINITY:
        clients = min(clients, (files - 100) * 2 // 5)
    path = filter(None, (str(PROJECT), os.environ.get("PYTHONPATH")))
    return (
        shipped
        | {
            "RAY_SERVE_HAPROXY_MAXCONN": str(clients),
            haproxy.BINARY: str(Path(sys.executable).with_name(haproxy.COMMAND)),
            # HAProxy listens on these ports on every interface; two services must not collide.
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(next(ports)),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(next(ports)),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(next(ports)),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(next(ports)),
            # Replicas listen on these ports. If two services shared a range, a replica could fail
            # to get its port, and HAProxy would for a moment send requests to the other service.
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 49),
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first_grpc),
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first_grpc + 9),
            # Replicas take groups from each other here.
            LISTEN_HOST: "127.0.0.1",
            # There is one HAProxy on this machine, and it learns at once that a replica leaves.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        }
        | os.environ
        | {"PYTHONPATH": os.pathsep.join(path), RUN: run_directory(port)}
    )

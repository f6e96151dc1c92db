"""How many replicas: Serve's own rule, on what they hold. Serve does not see it."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext

PHOTOS_HELD = "photos_held"  # in the stats of a classifier replica: waiting or being inferred
REQUESTS_HELD = "requests_held"  # in the stats of an ingress replica: without an answer yet
GROUPS_HELD = "groups_held"  # in the stats of a preprocessor replica: without an answer yet


def photos_per_replica(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """A policy for classifiers: `target_ongoing_requests` photos per replica.

    One to two batches are a good target. A replica at its limit holds two batches: one that is
    inferred and one that gathers. With one batch held, its batches are half full.

    Returns:
        Replicas wanted, before Serve applies delays, factors and bounds; no state.
    """
    return _wanted(context, PHOTOS_HELD)


def groups_per_replica(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """A policy for preprocessors: `target_ongoing_requests` groups per replica.

    Returns:
        As above.
    """
    return _wanted(context, GROUPS_HELD)


def requests_per_replica(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """A policy for ingresses: `target_ongoing_requests` HTTP requests per replica.

    Returns:
        As above.
    """
    return _wanted(context, REQUESTS_HELD)


def _wanted(context: AutoscalingContext, stat: str) -> tuple[float, dict[str, Any]]:
    held = (context.aggregated_metrics or {}).get(stat)
    if not held:  # no replica has reported yet
        return context.target_num_replicas, {}
    config: AutoscalingConfig = context.config  # type: ignore[assignment]  # None in tests alone
    return sum(held.values()) / config.get_target_ongoing_requests(), {}

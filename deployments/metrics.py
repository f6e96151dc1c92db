"""Every metric of the service: name, unit, buckets, and who reads it.

Exported by Ray's own agents, with deployment, replica and application as tags; every name gains
the prefix `ray_`. Made inside a replica, never at import: Serve adds its tags to no other.
"""

from __future__ import annotations

from collections.abc import Callable

from ray.serve import metrics

_ITEMS: list[float] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
_SECONDS: list[float] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10]


def batch_observer(queue: str) -> Callable[[int, float], None]:
    """What a batcher reports each batch to.

    Args:
        queue: small_photos, large_photos or images.
    """
    tags = {"queue": queue}
    # Whoever tunes the bounds of groups and batches: do they fill under load?
    items = metrics.Histogram(
        "mlc_batch_items", "Items a group or batch started with.", _ITEMS, ("queue",)
    )
    # The SRE who asks where the time goes: the longest wait among the items of a batch.
    wait_s = metrics.Histogram(
        "mlc_batch_wait_s", "Seconds the first item of a batch waited.", _SECONDS, ("queue",)
    )

    def observe(count: int, waited_s: float) -> None:
        items.observe(count, tags)
        wait_s.observe(waited_s, tags)

    return observe

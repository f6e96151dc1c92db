"""Records observations in a replica, and hands them to Ray's metrics ten times a second."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict, deque
from collections.abc import Callable
from functools import cache
from typing import Any

from ray.serve import metrics as ray_metrics

from deployments.telemetry.catalogue import BATCH_SIZE, BATCHED_ITEMS, STAGE_DURATION, Metric

logger = logging.getLogger("ray.serve")

_GAUGES_EVERY_S, _HAND_OVER_EVERY_S = 2.0, 0.1  # Ray exports every 10 s


class Recorder:
    """Takes observations from any thread. Each costs one tuple.

    A call to Ray takes 6 µs when many follow one another, and 20 µs between other work, because
    its code has left the processor's caches (docs/LOG.md, 2 cores, 2026-11). So `export` makes the
    calls together.

    Attributes:
        enabled: False drops new observations. `make observability` switches it to measure what
            observing costs.
    """

    def __init__(self) -> None:
        self.enabled = True
        self._recorded: deque[tuple[Metric, float, dict[str, str]]] = deque()
        self._sums: dict[tuple[Metric, tuple[tuple[str, str], ...]], float] = defaultdict(float)

    def record(self, metric: Metric, value: float, **labels: str) -> None:
        """Add to a counter, set a gauge, or observe a value in a histogram."""
        if self.enabled:
            self._recorded.append((metric, value, labels))

    def batch_observer(self, queue: str) -> Callable[[int, float], None]:
        """A function to pass to a batcher as `observe`.

        Args:
            queue: small_photos, large_photos or images.
        """

        def observe(items: int, waited_s: float) -> None:
            self.record(BATCH_SIZE, items, queue=queue)
            self.record(BATCHED_ITEMS, items, queue=queue)
            self.record(STAGE_DURATION, waited_s, stage=f"{queue}_queue")

        return observe

    async def export(self, set_gauges: Callable[[], None] = lambda: None) -> None:
        """Hand over ten times a second, counters every 2 s, until cancelled.

        Args:
            set_gauges: records the gauges, every 2 s. Ray exports a gauge only while it is being
                set.
        """
        turns = round(_GAUGES_EVERY_S / _HAND_OVER_EVERY_S)
        for turn in itertools.count():
            try:
                self._hand_over()
                if turn % turns == 0:
                    self._hand_over_counters()
                    set_gauges()
            except Exception:  # one metric that fails must not end the export of the others
                logger.exception("a metric can't be exported")
            await asyncio.sleep(_HAND_OVER_EVERY_S)

    def take(self) -> list[tuple[Metric, float, dict[str, str]]]:
        """Remove and return the observations since the last hand-over."""
        return [self._recorded.popleft() for _ in range(len(self._recorded))]

    def _hand_over(self) -> None:
        for metric, value, labels in self.take():
            if metric.kind == "counter":
                self._sums[metric, tuple(labels.items())] += value
            elif isinstance(target := ray_metric(metric), ray_metrics.Histogram):
                target.observe(value, labels)
            elif isinstance(target, ray_metrics.Gauge):
                target.set(value, labels)

    def _hand_over_counters(self) -> None:
        # Less often than the rest, because predictions have one series per class.
        while self._sums:
            (metric, items), value = self._sums.popitem()
            if value:  # Ray refuses a zero
                ray_metric(metric).inc(value, dict(items))  # type: ignore[union-attr]  # kind says so


@cache
def ray_metric(
    metric: Metric,
) -> ray_metrics.Counter | ray_metrics.Gauge | ray_metrics.Histogram:
    """Ray's object of a metric. Call it inside a replica: Serve tags only what is created there."""
    labels: Any = metric.labels  # Ray's annotation names a tuple of just one
    if metric.kind == "histogram":
        return ray_metrics.Histogram(metric.name, metric.text, list(metric.buckets), labels)
    kind = ray_metrics.Counter if metric.kind == "counter" else ray_metrics.Gauge
    return kind(metric.name, metric.text, labels)

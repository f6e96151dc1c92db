"""Every metric of the service: name, unit, labels, buckets, and who reads it.

Exported by Ray's own agents, with deployment, replica and application as tags; every name gains
the prefix `ray_`. Made inside a replica, never at import: Serve adds its tags to no other.
`python -m deployments.metrics` prints docs/metrics.md.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from ray.serve import metrics as ray_metrics

from mlc_core.engine import Probabilities
from mlc_core.spec import Spec

logger = logging.getLogger("ray.serve")

_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
# Steps of about 1.5, so that a quantile read from them is within a quarter of what it was.
_SECONDS = (
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10,
)  # fmt: skip
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True, eq=False)  # hashed by identity, at every `record`
class Declared:
    """One metric.

    Attributes:
        name: as Ray is told; exported as `ray_<name>`, a counter with `_total` behind.
        reader: who looks at it, and for what.
        buckets: upper bounds, of a histogram.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    text: str
    reader: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"


REQUEST_S = Declared(
    "histogram", "mlc_request_s",
    "Seconds from a request that has been read to its answer; its count is the number of requests. "
    "Status 499: the client left, or Serve gave the request up.",
    "The latency objective; traffic on the dashboard.", ("route", "status"), _SECONDS,
)  # fmt: skip
ANSWERS = Declared(
    "counter", "mlc_answers",
    "Photos that were answered, each by the status of its own: in a batch, of its result.",
    "The availability objective; refusals; errors on the dashboard.", ("route", "status"),
)  # fmt: skip
STAGE_S = Declared(
    "histogram", "mlc_stage_s",
    "Seconds of each stage, once a group or batch: the longest of its requests to `read` a body, "
    "of its waits in `small_photos_queue`, `large_photos_queue` (ingress) and `images_queue` "
    "(classifier); `decode`, `inference` and `encode` as a whole.",
    "Whoever asks where the time goes when p99 climbs.",
    ("stage",), _SECONDS,
)  # fmt: skip
BATCH_ITEMS = Declared(
    "histogram", "mlc_batch_items", "Items that a group or batch started with.",
    "Whoever tunes the bounds of groups and batches: do they fill under load?",
    ("queue",), _ITEMS,
)  # fmt: skip
BATCHED = Declared(
    "counter", "mlc_batched_items", "Items of all groups and batches.",
    "With the count of `ray_mlc_batch_items`, their mean size.", ("queue",),
)  # fmt: skip
WAITING = Declared(
    "gauge", "mlc_waiting", "Items that no group or batch has taken yet.",
    "Saturation: what waits, where.", ("queue",),
)  # fmt: skip
BUSY_S = Declared(
    "counter", "mlc_engine_busy_s",
    "Seconds a batch was in progress, divided by the batches that may be in progress at once.",
    "Saturation: its rate is the busy share of a classifier replica.",
)  # fmt: skip
PHOTOS = Declared(
    "counter", "mlc_photos", "Photos that were to be decoded, by the format their bytes tell.",
    "Traffic by format; a new client shows here first.", ("format",),
)  # fmt: skip
PROBLEMS = Declared(
    "counter", "mlc_problems",
    "Photos and requests that were answered with a problem, by its name: faults of photos, "
    "refusals (`overloaded`), passed deadlines, clients that left.",
    "Refusals and errors; whose fault it is.", ("problem",),
)  # fmt: skip
MODEL = Declared(
    "gauge", "mlc_model_in_service", "1 for the model in service.",
    "A roll-out: which replica answers with which version.",
    ("model", "version", "engine", "precision"),
)  # fmt: skip
MODEL_LOAD_S = Declared(
    "gauge", "mlc_model_load_s", "Seconds the model in service took to be loaded and checked.",
    "Start-up and roll-out times.",
)  # fmt: skip
MODEL_WARM_UP_S = Declared(
    "gauge", "mlc_model_warm_up_s", "Seconds of its first inference, before it was in service.",
    "Start-up and roll-out times.",
)  # fmt: skip
UPDATE_STUCK = Declared(
    "gauge", "mlc_model_update_stuck",
    "1 while the model that was asked for last is not in service, since it was refused.",
    "An alert: a roll-out that did not happen.",
)  # fmt: skip
UPDATES = Declared(
    "counter", "mlc_model_updates", "Models that were asked for, `loaded` or `refused`.",
    "The history of roll-outs.", ("outcome",),
)  # fmt: skip
PREDICTIONS = Declared(
    "counter", "mlc_predictions", "Photos that a class was the most probable of its head for.",
    "What the shop sends; a mix that shifts.", ("head", "class", "version"),
)  # fmt: skip
CONFIDENCE = Declared(
    "histogram", "mlc_confidence",
    "Confidence of the label of each head, of the first photo of every batch.",
    "Its distribution: the least sure sink first when the model meets photos it was not trained "
    "for.", ("head", "version"), _SHARES,
)  # fmt: skip
CONFIDENCE_SUM = Declared(
    "counter", "mlc_confidence_of_all", "Sum of the confidences of the labels of all photos.",
    "Drift, as the mean: divided by `ray_mlc_labels_total`. A roll-out: is the new version as "
    "sure?", ("head", "version"),
)  # fmt: skip
LABELS = Declared(
    "counter", "mlc_labels", "Photos that were given a label of the head.",
    "What the sum of the confidences is divided by: its series begin when those do.",
    ("head", "version"),
)  # fmt: skip

ALL = (
    REQUEST_S, ANSWERS, STAGE_S, BATCH_ITEMS, BATCHED, WAITING, BUSY_S, PHOTOS, PROBLEMS, MODEL,
    MODEL_LOAD_S, MODEL_WARM_UP_S, UPDATE_STUCK, UPDATES, PREDICTIONS, CONFIDENCE, CONFIDENCE_SUM,
    LABELS,
)  # fmt: skip

_PREAMBLE = """# Metrics

Made from `deployments/metrics.py` by `python -m deployments.metrics`. A cluster's scrape of Ray's
agents gets them; so does `GET /metrics` of the service, with Serve's own (`ray_serve_…`). Ray adds
`deployment`, `replica`, `application` and labels of its own to each. `GET /metrics` also has
`mlc_nodes_unreachable`: nodes whose agent did not answer within a second.

Ray sends counts of buckets from replicas to its agents, not observations: the `_sum` of a
histogram is made of the middles of its buckets, so take means from the counters that are there
for it. A series begins with what was counted until its first export, which `rate()` does not see.

| name | kind | labels | what | who reads it |
|---|---|---|---|---|"""

_GAUGES_EVERY_S, _HAND_OVER_EVERY_S = 2.0, 0.1  # Ray exports every 10 s
_counted: dict[tuple[Declared, tuple[tuple[str, str], ...]], float] = defaultdict(float)
_recorded: deque[tuple[Declared, float, dict[str, str]]] = deque()


@cache
def made(declared: Declared) -> ray_metrics.Counter | ray_metrics.Gauge | ray_metrics.Histogram:
    """Ray's metric of a declaration; one a process, since a replica has a process of its own."""
    labels: Any = declared.labels  # Ray's annotation names a tuple of just one
    if declared.kind == "histogram":
        return ray_metrics.Histogram(declared.name, declared.text, list(declared.buckets), labels)
    kind = ray_metrics.Counter if declared.kind == "counter" else ray_metrics.Gauge
    return kind(declared.name, declared.text, labels)


def record(declared: Declared, value: float, **labels: str) -> None:
    """Add to a counter, set a gauge, or observe; from any thread, at the price of a tuple.

    Ray is told by the clock: its call takes 6 µs when many follow one another and 20 between other
    work, where its code has left the processor's caches (2 cores, 2026-11).
    """
    _recorded.append((declared, value, labels))


def hand_over() -> None:
    """Tell Ray what was recorded since; counters are summed up until `hand_over_counters`."""
    while _recorded:
        declared, value, labels = _recorded.popleft()
        if declared.kind == "counter":
            _counted[declared, tuple(labels.items())] += value
        elif isinstance(metric := made(declared), ray_metrics.Histogram):
            metric.observe(value, labels)
        elif isinstance(metric, ray_metrics.Gauge):
            metric.set(value, labels)


def hand_over_counters() -> None:
    """Tell Ray what counters came to: a class of the model each, so not too often."""
    while _counted:
        (declared, items), value = _counted.popitem()
        if value:  # Ray refuses a zero
            made(declared).inc(value, dict(items))  # type: ignore[union-attr]  # kind says so


async def export(gauges: Callable[[], None]) -> None:
    """Hand over by the clock, until cancelled.

    Args:
        gauges: records what is as it is now; Ray exports a gauge only while it is being set.
    """
    turns = round(_GAUGES_EVERY_S / _HAND_OVER_EVERY_S)
    for turn in itertools.count():
        try:
            hand_over()
            if turn % turns == 0:
                hand_over_counters()
                gauges()
        except Exception:  # one that can't be told must not end the telling of all others
            logger.exception("a metric can't be exported")
        await asyncio.sleep(_HAND_OVER_EVERY_S)


def batch_observer(queue: str) -> Callable[[int, float], None]:
    """What a batcher reports each batch to.

    Args:
        queue: small_photos, large_photos or images.
    """

    def observe(count: int, waited_s: float) -> None:
        record(BATCH_ITEMS, count, queue=queue)
        record(BATCHED, count, queue=queue)
        record(STAGE_S, waited_s, stage=f"{queue}_queue")

    return observe


class Predictions:
    """Sums up what a model predicts and how sure it is; recorded by the clock.

    Batches add to it from engine threads: of two that do so at the same time, one must not be lost.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec, self._lock = spec, Lock()
        self._counts = {head: np.zeros(len(names), np.int64) for head, names in spec.heads.items()}
        self._sums = dict.fromkeys(spec.heads, 0.0)

    def observe(self, probabilities: Probabilities) -> None:
        """Take in a batch.

        Args:
            probabilities: head -> float32 (N, classes).
        """
        with self._lock:
            for head, classes in self._spec.heads.items():
                rows: NDArray[np.float32] = probabilities[head]
                best = rows.argmax(axis=1)
                sure = rows[np.arange(len(rows)), best]
                self._counts[head] += np.bincount(best, minlength=len(classes))
                self._sums[head] += float(sure.sum())
                record(CONFIDENCE, float(sure[0]), head=head, version=self._spec.version)

    def export(self) -> None:
        """Record what was taken in since."""
        with self._lock:
            for head, classes in self._spec.heads.items():
                labels = {"head": head, "version": self._spec.version}
                record(CONFIDENCE_SUM, self._sums[head], **labels)
                record(LABELS, int(self._counts[head].sum()), **labels)
                for number in np.flatnonzero(self._counts[head]):
                    count = int(self._counts[head][number])
                    record(PREDICTIONS, count, **labels, **{"class": classes[number]})
                self._counts[head][:], self._sums[head] = 0, 0.0


def document() -> str:
    """docs/metrics.md."""

    def row(declared: Declared) -> str:
        labels = ", ".join(f"`{label}`" for label in declared.labels) or "–"
        cells = (f"`{declared.exported}`", declared.kind, labels, declared.text, declared.reader)
        return f"| {' | '.join(cells)} |"

    buckets = [
        f"- `{declared.exported}`: {', '.join(f'{bound:g}' for bound in declared.buckets)}"
        for declared in ALL
        if declared.buckets
    ]
    return "\n".join((_PREAMBLE, *map(row, ALL), "", "Upper bounds of buckets:", "", *buckets, ""))


if __name__ == "__main__":
    sys.stdout.write(document())

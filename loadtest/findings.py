"""Counts of a run beyond Locust's own statistics. Workers send theirs to the master."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen
from weakref import WeakKeyDictionary

import gevent
from locust.env import Environment
from prometheus_client.parser import text_string_to_metric_families

from loadtest.percentiles import percentile

_EVERY_S = 2.0
_REPLICAS = "ray_serve_deployment_replica_healthy"


@dataclass
class Findings:
    """The counts of one process, or of all workers that report to it.

    Attributes:
        counts: `arrivals` that were due, and how many of them were `dropped`; `refused` requests;
            `photos` that were answered well.
        late: milliseconds by which an arrival was sent late -> how often.
        versions: model version -> requests it answered.
        history: entries that `Sampler` writes.
        problems: reasons why the run says nothing about the service.
        began: Unix time. Locust's own start time is that of the first worker.
    """

    counts: Counter[str] = field(default_factory=Counter)
    late: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    history: list[dict[str, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)

    def hand_over(self) -> dict[str, dict[Any, int]]:
        """The counts since the last call, as a worker sends them."""
        told = {}
        for name, counter in self._counters().items():
            told[name] = dict(counter)
            counter.clear()
        return told

    def take(self, told: Mapping[str, Mapping[Any, int]]) -> None:
        """Add the counts that a worker sent."""
        for name, counter in self._counters().items():
            counter.update(told[name])

    def _counters(self) -> dict[str, Counter[Any]]:
        return {"counts": self.counts, "late": self.late, "versions": self.versions}

    def clear(self) -> None:
        """Forget the previous run."""
        for counter in self._counters().values():
            counter.clear()
        self.history.clear()
        self.problems.clear()
        self.began = time.time()


class Sampler:
    """Writes a run's history: answers, failures, refusals, latency and replicas over time."""

    def __init__(self, environment: Environment, findings: Findings) -> None:
        self._environment = environment
        self._findings = findings
        self._seen = Counter[str]()
        self._times = Counter[int]()

    def run(self) -> None:
        """Sample until killed."""
        began = time.monotonic()
        while True:
            gevent.sleep(_EVERY_S)
            self.sample(time.monotonic() - began)

    def sample(self, at_s: float) -> None:
        """Add one entry. Its rates and latency are those since the previous entry."""
        stats, findings = self._environment.stats, self._findings
        now = Counter({
            "answered": stats.total.num_requests - stats.total.num_failures,
            "failed": stats.total.num_failures - findings.counts["refused"],
            "refused": findings.counts["refused"],
        })  # fmt: skip
        now.update({f"version {name}": count for name, count in findings.versions.items()})
        times = Counter(stats.total.response_times)
        since_s = at_s - (findings.history[-1]["at_s"] if findings.history else 0.0)
        entry = {"at_s": at_s}
        entry |= {f"{name}_per_s": (now[name] - self._seen[name]) / since_s for name in now}
        for share in (0.5, 0.99):
            entry[f"p{100 * share:g}_s"] = percentile(times - self._times, share) / 1e3
        entry |= {f"{name} replicas": count for name, count in self._replicas().items()}
        self._seen, self._times = now, times
        findings.history.append(entry)

    def _replicas(self) -> Counter[str]:
        try:
            # It goes through gevent's sockets, so other users run meanwhile.
            with urlopen(f"{self._environment.host}/metrics", timeout=5) as answer:  # noqa: S310
                text = answer.read().decode()
        except OSError:  # without metrics the plot has no replicas; the rest goes on
            return Counter()
        return Counter(
            sample.labels["deployment"]
            for family in text_string_to_metric_families(_lines(text.splitlines()))
            for sample in family.samples
            if sample.value == 1
        )


def _lines(lines: Iterable[str]) -> str:
    # The parser is slow, and no user runs while it parses. So it gets these lines only.
    return "\n".join(line for line in lines if line.startswith(_REPLICAS))


_OF: WeakKeyDictionary[Environment, Findings] = WeakKeyDictionary()


def of(environment: Environment) -> Findings:
    """The findings that belong to a Locust environment."""
    return _OF.setdefault(environment, Findings())

"""Measures what each stage costs, from outside: with a closed loop, /proc and the metrics."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.load import ClosedLoop, open_loop
from bench.servers import Server
from capacity.simulation import Cost, Costs
from deployments.telemetry.catalogue import BATCH_SIZE, BATCHED_ITEMS, ENGINE_BUSY
from samples.photos import small_photos

PHOTOS = small_photos(256)
_NOTHING = {"engine": "emulated", "emulated_batch_s": 0.0, "emulated_image_s": 0.0}
_PROCESSES = {"front": "HAProxy", "ingress": "Ingress", "preprocessor": "Preprocessor",
              "classifier": "Classifier"}  # fmt: skip
_EXPORTED_WITHIN_S = 30.0
_IDLE_S = 5.0


@dataclass(frozen=True)
class _Phase:
    """The result of a closed loop.

    Attributes:
        photos, groups, batches: as the service counted them.
        busy_s: total time in which the engine was busy.
        cpu_s: process -> CPU seconds, without those that it spends when idle.
    """

    rate: float
    p50_s: float
    photos: float
    groups: float
    batches: float
    busy_s: float
    cpu_s: Mapping[str, float]

    @property
    def group(self) -> float:
        """Mean number of photos in a group."""
        return self.photos / self.groups

    def cost(self, process: str) -> float:
        """Core-seconds of a process per group."""
        return self.cpu_s[process] / self.groups


def measure_costs(
    serve: Callable[[Mapping[str, Any]], Server], batch: int, seconds: float
) -> tuple[Costs, dict[str, Any]]:
    """Costs of all stages, and the ceiling of the pipeline around an engine that costs nothing.

    Args:
        serve: builds a service with one classifier, with these values added to its user_config.
        batch: the largest batch, in photos.
        seconds: duration of each measurement.
    """
    with serve(_NOTHING) as server:
        ClosedLoop(PHOTOS)(server.url, 64, 3)
        idle = idle_cores(server)
        light = _phase(server, 1, seconds, idle)
        heavy = _phase(server, 64, seconds, idle)
        client = _client(server, seconds)
    with serve({}) as server:
        idle_too = idle_cores(server)
        few = _phase(server, 1, seconds, idle_too)
        many = _phase(server, 3 * batch, seconds, idle_too)
    loops = {
        stage: _fit((light.group, light.cost(process)), (heavy.group, heavy.cost(process)))
        for stage, process in _PROCESSES.items()
    }
    # An engine that computes on these cores also waits for a free core, so its busy time is too
    # long. Take its CPU time instead.
    computed_s = [p.cpu_s["Classifier"] - p.groups * loops["classifier"].of(p.group)
                  for p in (few, many)]  # fmt: skip
    takes_core = computed_s[1] > many.busy_s / 2
    spent_s = computed_s if takes_core else [few.busy_s, many.busy_s]
    engine = _fit(*((p.photos / p.batches, s / p.batches)
                    for p, s in zip((few, many), spent_s, strict=True)))  # fmt: skip
    busy = [*loops.values()]
    hops_s = light.p50_s - sum(cost.of(1) for cost in busy) - light.busy_s / light.batches
    costs = Costs(
        client=client,
        **loops,
        engine=engine,
        engine_takes_core=takes_core,
        hop_s=max(0.0, hops_s / 2),
    )
    spent = {name: 1e3 * cpu_s / heavy.photos for name, cpu_s in heavy.cpu_s.items()}
    ceiling = {
        "photos/s": heavy.rate,
        "core-ms per photo": sum(spent.values()),
        "photos/s a core": 1e3 / sum(spent.values()),
        "core-ms per photo, by process": spent,
        "idle, core-ms a second, by process": {n: 1e3 * s for n, s in idle.items()},
    }
    return costs, ceiling


def _fit(light: tuple[float, float], heavy: tuple[float, float]) -> Cost:
    """The line through two points (photos of a group, seconds for it); neither cost is negative."""
    (few, short_s), (many, long_s) = light, heavy
    photo_s = max(0.0, (long_s - short_s) / (many - few))
    return Cost(max(0.0, long_s - many * photo_s), photo_s)


def idle_cores(server: Server) -> dict[str, float]:
    """Core-seconds per second of each process without load."""
    before, began = server.cpu_s(), time.monotonic()
    time.sleep(_IDLE_S)
    took_s = time.monotonic() - began
    return {name: (s - before.get(name, 0.0)) / took_s for name, s in server.cpu_s().items()}


def _phase(server: Server, connections: int, seconds: float, idle: Mapping[str, float]) -> _Phase:
    counted, before = _counted(server), server.cpu_s()
    load = ClosedLoop(PHOTOS)(server.url, connections, seconds)
    spent = {
        name: max(0.0, s - before.get(name, 0.0) - idle[name] * load.seconds)
        for name, s in server.cpu_s().items()
    }

    def new() -> Counter[str]:
        now = _counted(server)
        now.subtract(counted)
        return now

    until = time.monotonic() + _EXPORTED_WITHIN_S
    while min((told := new())["small_photos"], told["images"]) < load.answers:
        if time.monotonic() > until:
            raise RuntimeError(f"of {load.answers} photos, the metrics count {dict(told)}")
        time.sleep(0.5)
    return _Phase(
        load.rate, load.p50_s, told["small_photos"], told["small_photos groups"],
        told["images groups"], told["busy_s"], spent,
    )  # fmt: skip


def _counted(server: Server) -> Counter[str]:
    """Photos by queue, `… groups` by queue, and busy seconds, since the service started."""
    counted: Counter[str] = Counter()
    for sample in server.samples():
        if sample.name == BATCHED_ITEMS.exported:
            counted[sample.labels["queue"]] += sample.value  # type: ignore[assignment]
        elif sample.name == f"{BATCH_SIZE.exported}_count":
            counted[f"{sample.labels['queue']} groups"] += sample.value  # type: ignore[assignment]
        elif sample.name == ENGINE_BUSY.exported:
            counted["busy_s"] += sample.value  # type: ignore[assignment]
    return counted


def _client(server: Server, seconds: float) -> Cost:
    """The CPU time that the generator of the open loop spends on each photo."""
    rate, spent_s = 200.0, time.process_time()
    sent = open_loop(server.url, {"": (PHOTOS, rate)}, seconds)[""]
    return Cost(0.0, (time.process_time() - spent_s) / sent.answers)

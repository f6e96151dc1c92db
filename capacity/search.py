"""`make capacity`: the highest Poisson rate that keeps p99, measured and predicted.

It serves each composition and searches by bisection. It measures the costs of the stages on two
services, one of them with an engine that costs nothing. The planner predicts all compositions from
these costs. The command writes the results and the Serve config values that it recommends.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from bench.load import ClosedLoop, open_loop
from bench.plots import draw_capacity
from bench.servers import Server, machine
from capacity.costs import PHOTOS, idle_cores, measure_costs
from capacity.planner import HEADROOM, capacity, compose, highest_rate, plan
from capacity.simulation import Composition, Costs
from deployments.serve_config import ServeConfig
from deployments.settings import PROJECT
from loadtest.slo import OBJECTIVES, load_objectives

# A generator that is later than this share of the objective was itself the limit, not the service.
_LATE_AT_MOST = 0.1


@dataclass
class SearchResult:
    """A composition and its highest rates, photos/s, one value for each round.

    Attributes:
        predicted: the planner's rates, for the same arrivals as the measured round.
        probes: every rate that was tried, with its percentiles in seconds.
        idle: process -> core-seconds per second without load, for each round.
    """

    classifiers: int
    batch: int
    predicted: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)
    probes: list[dict[str, float]] = field(default_factory=list)
    idle: list[dict[str, float]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.classifiers} × {self.batch}"

    @property
    def rate(self) -> float:
        """Photos/s, the median of the measured rates."""
        return statistics.median(self.measured)

    @property
    def ratio(self) -> float:
        """Predicted to measured."""
        return statistics.median(self.predicted) / self.rate if self.rate else float("inf")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m capacity.search", description=__doc__)
    parser.add_argument("--config", type=Path, default=PROJECT / "serve_config.yaml")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2], help="classifiers")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32], help="at the most")
    parser.add_argument("--slo", type=Path, default=OBJECTIVES)
    parser.add_argument("--target", type=float, help="photos/s to plan for; default: most found")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs/capacity")
    args = parser.parse_args()
    objective_s = load_objectives(args.slo).p99_s
    if objective_s is None:
        parser.error(f"{args.slo} names no p99_s to search by")
    try:
        config = ServeConfig.read(args.config)
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(config, Path(folder), objective_s, args.seconds)
        batch = max(args.batches)
        _say("what the stages cost, with one classifier")
        costs, ceiling = measure_costs(partial(bench.serve, 1, batch), batch, args.seconds)
        results = [
            SearchResult(replicas, batch) for replicas in args.replicas for batch in args.batches
        ]
        for number in range(1, args.rounds + 1):
            # In alternating order, so that a drifting machine affects all of them alike.
            for each in results[:: 1 if number % 2 else -1]:
                _say(f"round {number} of {args.rounds}: {each.name}")
                bench.search(each, costs, number)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / args.config.stem
    result = {
        "machine": machine(), "config": args.config.name, "p99_s": objective_s,
        "costs": asdict(costs), "ceiling": ceiling, "results": [asdict(each) for each in results],
    }  # fmt: skip
    Path(f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_capacity(
        {each.name: each.measured for each in results},
        {each.name: statistics.median(each.predicted) for each in results},
        Path(f"{stem}.png"),
    )
    _say(f"{ceiling_table(ceiling)}\n{results_table(results)}\nwrote {stem}.json and .png")
    sys.stdout.write(json.dumps(result) + "\n")
    try:
        advice = _advise(config, costs, results, args.target, objective_s)
    except ValueError as error:
        _say(f"nothing to recommend: {error}")
        return 1
    Path(f"{stem}.recommended.yaml").write_text(advice)
    _say(f"{advice}wrote {stem}.recommended.yaml")
    return 0


class _Bench:
    """Serves a config in many compositions, and measures them."""

    def __init__(
        self, config: ServeConfig, folder: Path, objective_s: float, seconds: float
    ) -> None:
        self._config, self._folder = config, folder
        self._objective_s, self._seconds = objective_s, seconds

    def search(self, result: SearchResult, costs: Costs, number: int) -> None:
        """One round of a composition: measured, and predicted for the same arrivals."""
        settings = self._config.settings
        unit = compose(
            result.classifiers,
            result.batch,
            cores=os.cpu_count(),
            waiting=settings.small_lane.max_waiting,
            wait_s=settings.max_wait_s,
        )
        with self.serve(result.classifiers, result.batch, {}) as server:
            result.idle.append(idle_cores(server))
            load = ClosedLoop(PHOTOS)
            most = 1.2 * load(server.url, 3 * result.classifiers * result.batch, 6).rate

            def keeps(rate: float) -> bool:
                got = open_loop(server.url, {"": (PHOTOS, rate)}, self._seconds, number)[""]
                kept = not got.failures and got.p99_s <= self._objective_s
                late = got.late_s > _LATE_AT_MOST * self._objective_s
                result.probes.append(
                    {"round": number, "rate": rate, "p50_s": got.p50_s, "p99_s": got.p99_s,
                     "failures": got.failures, "late_s": got.late_s, "kept": kept}
                )  # fmt: skip
                _say(
                    f"  {rate:7.1f} photos/s: p99 {got.p99_s:.3f} s, {got.failures} failed: "
                    f"{'kept' if kept else 'missed'}{', generator late' if late else ''}"
                )
                return kept

            result.measured.append(highest_rate(keeps, most))
        result.predicted.append(
            capacity(costs, unit, self._objective_s, most, self._seconds, number)
        )
        _say(f"  measured {result.measured[-1]:.1f}, predicted {result.predicted[-1]:.1f} photos/s")

    def serve(self, classifiers: int, batch: int, engine: Mapping[str, Any]) -> Server:
        """The config in another composition, with `engine` added to its user_config."""
        config = self._config.merge(values(self._config, compose(classifiers, batch)))
        return Server(config.with_user_config(**engine).write(self._folder / "config.yaml"))


def values(config: ServeConfig, unit: Composition, units: int = 1) -> dict[str, Any]:
    """The difference that a composition makes to a Serve config."""
    autoscaled = {n for n, each in config.deployments.items() if each.get("autoscaling_config")}
    replicas = {
        "Ingress": units,
        "Preprocessor": units * unit.preprocessors,
        "Classifier": units * unit.classifiers,
    }
    difference = {
        "name": config.application["name"],
        "args": {
            "small_lane": {
                "max_photos": unit.group.max_items,
                "max_in_flight": unit.group.max_in_flight,
            },
            "batching": {"max_images": unit.batch.max_items},
        },
        "deployments": [
            {"name": name, "num_replicas": count}
            | ({"autoscaling_config": None} if name in autoscaled else {})
            for name, count in replicas.items()
        ],
    }
    return {"applications": [difference]}


def _advise(
    config: ServeConfig,
    costs: Costs,
    results: list[SearchResult],
    target: float | None,
    p99_s: float,
) -> str:
    """Values of the Serve config as YAML, with the evidence for them in comments above.

    Raises:
        ValueError: no composition keeps the objective.
    """
    enough = [each for each in results if each.rate and HEADROOM * each.rate >= (target or 0)]
    if enough:
        best = min(enough, key=lambda f: (f.classifiers if target else 0, -f.rate))
        unit, units = compose(best.classifiers, best.batch), 1
        why = (
            f"measured: {best.rate:.0f} photos/s ({min(best.measured):.0f} to "
            f"{max(best.measured):.0f} in {len(best.measured)} rounds), p99 at most {p99_s} s"
        )
    else:
        planned = plan(costs, target or 0.0, p99_s, HEADROOM)
        unit, units = planned.unit, planned.units
        worst = max(abs(each.ratio - 1) for each in results)
        why = f"planned, not measured; the planner was within {worst:.0%} of what was measured"
    asked = f"{target:.0f} photos/s, at {HEADROOM:.0%} of the capacity" if target else "the most"
    machine_ = machine()
    lines = [f"# For {asked}; {why}.", f"# On {machine_['cpu']}, {machine_['cores']} cores."]
    return "\n".join(lines) + "\n" + yaml.safe_dump(values(config, unit, units), sort_keys=False)


def results_table(results: Sequence[SearchResult]) -> str:
    """Markdown, a row for each composition."""
    rows = [
        "| classifiers | photos per batch | measured: photos/s (least–most) | predicted | ratio |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {each.classifiers} | {each.batch} | {each.rate:.0f} ({min(each.measured):.0f}–"
        f"{max(each.measured):.0f}) | {statistics.median(each.predicted):.0f} | {each.ratio:.2f} |"
        for each in results
    ]
    return "\n".join(rows) + "\n"


def ceiling_table(ceiling: Mapping[str, Any]) -> str:
    """Markdown, a row for each process that spends more than 0.01 core-ms per photo."""
    rows = ["| process | core-ms per photo | photos/s of one core |", "|---|---|---|"]
    spent = ceiling["core-ms per photo, by process"]
    shown = {name: ms for name, ms in sorted(spent.items(), key=lambda s: -s[1]) if ms > 0.01}
    for name, core_ms in {**shown, "**all**": ceiling["core-ms per photo"]}.items():
        rows.append(f"| {name} | {core_ms:.3f} | {1e3 / core_ms:,.0f} |")
    return "\n".join(rows) + "\n"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""`make capacity`: the highest Poisson rate whose p99 keeps the objective, measured and planned.

Each composition is served and searched by bisection. What the stages cost is measured on two
services, one of them with an engine that costs nothing; from that alone the planner predicts all.
Writes what it found, and the values of the Serve config that it recommends.
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

from bench.costs import PHOTOS, idle_cores, measure_costs
from bench.load import ClosedLoop, open_loop
from bench.planner import HEADROOM, capacity, compose, highest_rate, plan
from bench.plots import draw_capacity
from bench.servers import Server, machine
from bench.simulation import Composition, Costs
from deployments.settings import PROJECT, Settings, parse
from k8s.render import merged
from loadtest.slo import load_objectives

# A generator that is later than this share of the objective is what the search found the limit of.
_LATE_AT_MOST = 0.1


@dataclass
class Found:
    """A composition and its highest rates, photos/s.

    Attributes:
        predicted: by the planner, a round each: the arrivals of a round are the same for both.
        measured: a round each.
        probes: every rate that was tried, with its percentiles in seconds.
        idle: process -> core-seconds a second while nobody asks, a round each.
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
        """Photos/s, the median of what was measured."""
        return statistics.median(self.measured)

    @property
    def ratio(self) -> float:
        """Predicted to measured."""
        return statistics.median(self.predicted) / self.rate if self.rate else float("inf")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__)
    parser.add_argument("--config", type=Path, default=PROJECT / "serve_config.yaml")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2], help="classifiers")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32], help="at the most")
    parser.add_argument("--slo", type=Path, default=PROJECT / "loadtest/slo.yaml")
    parser.add_argument("--target", type=float, help="photos/s to plan for; else the most found")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs/capacity")
    args = parser.parse_args()
    objective_s = load_objectives(args.slo).p99_s
    if objective_s is None:
        parser.error(f"{args.slo} names no p99_s to search by")
    config = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        bench = _Bench(config, Path(folder), objective_s, args.seconds)
        batch = max(args.batches)
        _say("what the stages cost, with one classifier")
        costs, ceiling = measure_costs(partial(bench.serve, 1, batch), batch, args.seconds)
        found = [Found(replicas, batch) for replicas in args.replicas for batch in args.batches]
        for number in range(1, args.rounds + 1):
            for each in found[:: 1 if number % 2 else -1]:  # a machine that drifts drifts for all
                _say(f"round {number} of {args.rounds}: {each.name}")
                bench.search(each, costs, number)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / args.config.stem
    result = {
        "machine": machine(), "config": args.config.name, "p99_s": objective_s,
        "costs": asdict(costs), "ceiling": ceiling, "found": [asdict(each) for each in found],
    }  # fmt: skip
    Path(f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_capacity(
        {each.name: each.measured for each in found},
        {each.name: statistics.median(each.predicted) for each in found},
        Path(f"{stem}.png"),
    )
    _say(f"{ceiling_table(ceiling)}\n{found_table(found)}\nwrote {stem}.json and .png")
    sys.stdout.write(json.dumps(result) + "\n")
    try:
        advice = _advise(config, costs, found, args.target, objective_s)
    except ValueError as error:
        _say(f"nothing to recommend: {error}")
        return 1
    Path(f"{stem}.recommended.yaml").write_text(advice)
    _say(f"{advice}wrote {stem}.recommended.yaml")
    return 0


class _Bench:
    """Serves a config in many compositions, and measures them."""

    def __init__(
        self, config: dict[str, Any], folder: Path, objective_s: float, seconds: float
    ) -> None:
        self._config, self._folder = config, folder
        self._objective_s, self._seconds = objective_s, seconds

    def search(self, found: Found, costs: Costs, number: int) -> None:
        """One round of a composition: measured, and predicted for the same arrivals."""
        cell = compose(found.classifiers, found.batch, cores=os.cpu_count(), **self._waiting())
        with self.serve(found.classifiers, found.batch, {}) as server:
            found.idle.append(idle_cores(server))
            load = ClosedLoop(PHOTOS)
            most = 1.2 * load(server.url, 3 * found.classifiers * found.batch, 6).rate

            def keeps(rate: float) -> bool:
                got = open_loop(server.url, {"": (PHOTOS, rate)}, self._seconds, number)[""]
                kept = not got.failures and got.p99_s <= self._objective_s
                late = got.late_s > _LATE_AT_MOST * self._objective_s
                found.probes.append(
                    {"round": number, "rate": rate, "p50_s": got.p50_s, "p99_s": got.p99_s,
                     "failures": got.failures, "late_s": got.late_s, "kept": kept}
                )  # fmt: skip
                _say(
                    f"  {rate:7.1f} photos/s: p99 {got.p99_s:.3f} s, {got.failures} failed: "
                    f"{'kept' if kept else 'missed'}{', generator late' if late else ''}"
                )
                return kept

            found.measured.append(highest_rate(keeps, most))
        found.predicted.append(
            capacity(costs, cell, self._objective_s, most, self._seconds, number)
        )
        _say(f"  measured {found.measured[-1]:.1f}, predicted {found.predicted[-1]:.1f} photos/s")

    def serve(self, classifiers: int, batch: int, engine: Mapping[str, Any]) -> Server:
        """The config in another composition, with this added to its user_config."""
        config = merged(self._config, values(self._config, compose(classifiers, batch)))
        for deployment in config["applications"][0]["deployments"]:
            if "user_config" in deployment:
                deployment["user_config"] = {**deployment["user_config"], **engine}
        path = self._folder / "config.json"  # JSON is YAML
        path.write_text(json.dumps(config))
        return Server(path)

    def _waiting(self) -> dict[str, int]:
        settings = parse(Settings, self._config["applications"][0]["args"])
        return {"waiting": settings.small_photos.waiting}


def values(config: dict[str, Any], cell: Composition, cells: int = 1) -> dict[str, Any]:
    """What a composition changes in a Serve config."""
    application = config["applications"][0]
    autoscaled = {d["name"] for d in application["deployments"] if d.get("autoscaling_config")}
    replicas = {
        "Ingress": cells,
        "Preprocessor": cells * cell.preprocessors,
        "Classifier": cells * cell.classifiers,
    }
    difference = {
        "name": application["name"],
        "args": {
            "small_photos": {"photos": cell.group.items, "in_flight": cell.group.in_flight},
            "batching": {"images": cell.batch.items},
        },
        "deployments": [
            {"name": name, "num_replicas": count}
            | ({"autoscaling_config": None} if name in autoscaled else {})
            for name, count in replicas.items()
        ],
    }
    return {"applications": [difference]}


def _advise(
    config: dict[str, Any], costs: Costs, found: list[Found], target: float | None, p99_s: float
) -> str:
    """Values of the Serve config, under the evidence for them as comments.

    Raises:
        ValueError: nothing keeps the objective.
    """
    enough = [each for each in found if each.rate and HEADROOM * each.rate >= (target or 0)]
    if enough:
        best = min(enough, key=lambda f: (f.classifiers if target else 0, -f.rate))
        cell, cells = compose(best.classifiers, best.batch), 1
        why = (
            f"measured: {best.rate:.0f} photos/s ({min(best.measured):.0f} to "
            f"{max(best.measured):.0f} in {len(best.measured)} rounds), p99 at most {p99_s} s"
        )
    else:
        planned = plan(costs, target or 0.0, p99_s, HEADROOM)
        cell, cells = planned.cell, planned.cells
        worst = max(abs(each.ratio - 1) for each in found)
        why = f"planned, not measured; the planner was within {worst:.0%} of what was measured"
    asked = f"{target:.0f} photos/s, at {HEADROOM:.0%} of the capacity" if target else "the most"
    machine_ = machine()
    lines = [f"# For {asked}; {why}.", f"# On {machine_['cpu']}, {machine_['cores']} cores."]
    return "\n".join(lines) + "\n" + yaml.safe_dump(values(config, cell, cells), sort_keys=False)


def found_table(found: Sequence[Found]) -> str:
    """Markdown, a row a composition."""
    rows = [
        "| classifiers | photos a batch | measured: photos/s (least–most) | predicted | ratio |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {each.classifiers} | {each.batch} | {each.rate:.0f} ({min(each.measured):.0f}–"
        f"{max(each.measured):.0f}) | {statistics.median(each.predicted):.0f} | {each.ratio:.2f} |"
        for each in found
    ]
    return "\n".join(rows) + "\n"


def ceiling_table(ceiling: Mapping[str, Any]) -> str:
    """Markdown, a row a process that spends more than a hundredth of a core-ms a photo."""
    rows = ["| process | core-ms a photo | photos/s of one core |", "|---|---|---|"]
    spent = ceiling["core-ms a photo, by process"]
    shown = {name: ms for name, ms in sorted(spent.items(), key=lambda s: -s[1]) if ms > 0.01}
    for name, core_ms in {**shown, "**all**": ceiling["core-ms a photo"]}.items():
        rows.append(f"| {name} | {core_ms:.3f} | {1e3 / core_ms:,.0f} |")
    return "\n".join(rows) + "\n"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

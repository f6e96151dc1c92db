"""`make plan`: how many replicas a rate needs, from the measured costs of the stages.

A composition is large enough when its simulation keeps p99 at the rate divided by the headroom. A
scale unit is one ingress with the preprocessors and classifiers that it feeds. A rate that is too
high for one ingress needs several units.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from capacity.simulation import Composition, Cost, Costs, simulate
from deployments.pipeline.batcher import BatchLimits
from deployments.settings import PROJECT
from loadtest.percentiles import p99
from loadtest.slo import OBJECTIVES, load_objectives

BATCHES = (8, 16, 32, 64)
HEADROOM = 0.7  # share of the capacity in use; the rest is for a bad minute, or a lost node
_ANY = 2**40  # bytes: small photos never fill a group by size
_SECONDS, _PHOTOS = 5.0, 2000  # minimum of a simulation
# In an event loop that is busier than this, photos wait for longer than it works on them.
_BUSY_AT_MOST = 0.8
_NODE_CORES = 16


@dataclass(frozen=True)
class Plan:
    """What a rate needs.

    Attributes:
        unit: replicas and limits of one scale unit.
        cores: cores that all units need, including the headroom. The engine counts only if it
            computes on cores.
    """

    rate: float
    units: int
    unit: Composition
    cores: float

    @property
    def classifiers(self) -> int:
        """Replicas of all units."""
        return self.units * self.unit.classifiers

    @property
    def preprocessors(self) -> int:
        """Replicas of all units."""
        return self.units * self.unit.preprocessors


def compose(
    classifiers: int,
    batch: int,
    preprocessors: int = 1,
    cores: int | None = None,
    waiting: int = sys.maxsize,
    wait_s: float = float("inf"),
) -> Composition:
    """One ingress with groups as large as batches, and two groups in flight for each classifier."""
    return Composition(
        group=BatchLimits(batch, _ANY, 2 * classifiers, waiting, wait_s),
        batch=BatchLimits(batch, _ANY, 1, sys.maxsize),
        preprocessors=preprocessors,
        classifiers=classifiers,
        cores=cores,
    )


def highest_rate(keeps: Callable[[float], bool], most: float, within: float = 1.04) -> float:
    """The highest rate that keeps its objective, by bisection, as MLPerf's server scenario does.

    Args:
        most: a rate that is probably too high; the search raises it until it is.
        within: largest ratio of the lowest rate that was missed to the highest that was kept.

    Returns:
        A rate that was kept; 0 if not even a 256th of `most` was.
    """
    lowest, least = most / 1000, most / 4
    while not keeps(least):
        least, most = least / 4, least
        if least < lowest:
            return 0.0
    while keeps(most):
        least, most = most, 1.5 * most
    while most / least > within:
        rate = math.sqrt(least * most)
        least, most = (rate, most) if keeps(rate) else (least, rate)
    return least


def _keeps(
    costs: Costs, unit: Composition, objective_s: float, seconds: float, seed: int, rate: float
) -> bool:
    return p99(simulate(costs, unit, rate, seconds, seed).latencies_s) <= objective_s


def capacity(
    costs: Costs, unit: Composition, objective_s: float, most: float, seconds: float, seed: int
) -> float:
    """The highest rate, photos/s, whose p99 the simulation keeps; see `highest_rate`."""
    return highest_rate(partial(_keeps, costs, unit, objective_s, seconds, seed), most)


def plan(costs: Costs, rate: float, objective_s: float, headroom: float = HEADROOM) -> Plan:
    """The fewest classifiers, then preprocessors, that keep p99 at a rate.

    Args:
        rate: photos/s.
        headroom: share of the capacity that the rate may use.

    Raises:
        ValueError: no number of replicas keeps the objective, or the rate is not above 0.
    """
    if rate <= 0 or not 0 < headroom <= 1:
        raise ValueError(
            f"a rate above 0 and a headroom up to 1 are needed, not {rate}, {headroom}"
        )
    costs = replace(costs, client=Cost(0, 0))  # clients run elsewhere
    plans = []
    for batch in BATCHES:
        of_one_ingress = _BUSY_AT_MOST * batch / costs.ingress.of(batch)
        units = math.ceil(rate / headroom / of_one_ingress)
        unit = _smallest_unit(costs, batch, rate / headroom / units, objective_s)
        if unit:
            core_s = simulate(costs, unit, rate / units, _seconds(rate / units)).core_s
            plans.append(Plan(rate, units, unit, rate * core_s / headroom))
    if not plans:
        alone = min(simulate(costs, compose(1, 1), 1.0, 60.0).latencies_s)
        raise ValueError(
            f"p99 of {objective_s} s can't be kept: a photo that is alone takes {alone:.3f} s"
        )
    return min(plans, key=lambda p: (p.classifiers, p.preprocessors, p.unit.batch.max_items))


def _seconds(rate: float) -> float:
    return max(_SECONDS, _PHOTOS / rate)


def _smallest_unit(costs: Costs, batch: int, rate: float, objective_s: float) -> Composition | None:
    """The smallest unit that keeps p99 at a rate; None if twice the minimum, plus 2, do not."""
    preprocessors = math.ceil(rate * costs.preprocessor.of(batch) / batch / _BUSY_AT_MOST)
    least = math.ceil(rate * costs.engine.of(batch) / batch)
    some = range(least, 2 * least + 3)

    def enough(classifiers: int) -> bool:
        unit = compose(classifiers, batch, preprocessors)
        return _keeps(costs, unit, objective_s, _seconds(rate), 0, rate)

    place = bisect_left(some, True, key=enough)
    return compose(some[place], batch, preprocessors) if place < len(some) else None


def read_costs(file: Path) -> Costs:
    """The costs in a file that `make capacity` wrote."""
    stored = json.loads(file.read_text(encoding="utf-8"))["costs"]
    return Costs(**{f.name: _value(stored[f.name]) for f in fields(Costs)})


def _value(stored: Any) -> Any:
    return Cost(**stored) if isinstance(stored, dict) else stored


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m capacity.planner", description=__doc__)
    parser.add_argument("--rate", type=float, nargs="+", required=True, help="photos/s")
    parser.add_argument(
        "--p99-s",
        type=float,
        default=load_objectives(OBJECTIVES).p99_s,
        help="default: %(default)s",
    )
    parser.add_argument(
        "--headroom", type=float, default=HEADROOM, help="share of the capacity in use"
    )
    parser.add_argument(
        "--costs", type=Path, default=PROJECT / "docs/capacity/serve_config.json",
        help="file that `make capacity` wrote on such a machine",
    )  # fmt: skip
    args = parser.parse_args()
    costs = read_costs(args.costs)
    try:
        plans = [plan(costs, rate, args.p99_s, args.headroom) for rate in args.rate]
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(table(plans))
    return 0


def table(plans: Sequence[Plan]) -> str:
    """Markdown, a row for each plan."""
    rows = [
        "| photos/s | ingresses | preprocessors | classifiers | photos per batch | cores "
        f"| nodes of {_NODE_CORES} cores |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {each.rate:,.0f} | {each.units:,} | {each.preprocessors:,} | {each.classifiers:,} "
        f"| {each.unit.batch.max_items} | {each.cores:,.1f} "
        f"| {math.ceil(each.cores / _NODE_CORES):,} |"
        for each in plans
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())

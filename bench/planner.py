"""`make plan`: what was measured of the stages becomes the replicas that a rate needs.

A composition is good when the simulation keeps p99 at the rate over the headroom. Above what one
ingress can do, cells are multiplied: an ingress with the preprocessors and classifiers it feeds.
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

from bench.load import p99
from bench.simulation import Composition, Cost, Costs, simulate
from deployments.batching import Bounds
from deployments.settings import PROJECT

BATCHES = (8, 16, 32, 64)
HEADROOM = 0.7  # share of the capacity that is used: the rest meets a bad minute, or a lost node
_ANY = 2**40  # bytes: small photos never fill a group by size
_SECONDS, _PHOTOS = 5.0, 2000  # of a simulation, at the least
# One event loop that is busy for longer makes photos wait for more than it works on them.
_BUSY_AT_MOST = 0.8
_NODE_CORES = 16


@dataclass(frozen=True)
class Plan:
    """What a rate needs.

    Attributes:
        cell: replicas and bounds of one cell.
        cores: to have for all cells, the headroom included; the engine's only where it computes
            on cores.
    """

    rate: float
    cells: int
    cell: Composition
    cores: float

    @property
    def classifiers(self) -> int:
        """Replicas over all cells."""
        return self.cells * self.cell.classifiers

    @property
    def preprocessors(self) -> int:
        """Replicas over all cells."""
        return self.cells * self.cell.preprocessors


def compose(
    classifiers: int,
    batch: int,
    preprocessors: int = 1,
    cores: int | None = None,
    waiting: int = sys.maxsize,
) -> Composition:
    """One ingress whose groups are as large as batches, two on their way for each classifier."""
    return Composition(
        group=Bounds(batch, _ANY, 2 * classifiers, waiting),
        batch=Bounds(batch, _ANY, 1, sys.maxsize),
        preprocessors=preprocessors,
        classifiers=classifiers,
        cores=cores,
    )


def highest_rate(keeps: Callable[[float], bool], most: float, within: float = 1.04) -> float:
    """By bisection, the highest rate that keeps its objective, as MLPerf's server scenario has it.

    Args:
        most: a rate that is likely too high; raised while it is not.
        within: the rate that was kept and the one that was not are so close in the end.

    Returns:
        A rate that was kept; 0 where not even a thousandth of `most` is.
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
    costs: Costs, cell: Composition, objective_s: float, seconds: float, seed: int, rate: float
) -> bool:
    return p99(simulate(costs, cell, rate, seconds, seed).latencies_s) <= objective_s


def capacity(
    costs: Costs, cell: Composition, objective_s: float, most: float, seconds: float, seed: int
) -> float:
    """The highest rate, photos/s, whose p99 the simulation keeps; see `highest_rate`."""
    return highest_rate(partial(_keeps, costs, cell, objective_s, seconds, seed), most)


def plan(costs: Costs, rate: float, objective_s: float, headroom: float = HEADROOM) -> Plan:
    """The fewest classifiers, then preprocessors, that keep p99 at a rate.

    Args:
        rate: photos/s.
        headroom: share of what it can do that is used at the rate: what is left meets a bad
            minute, or the loss of a node.

    Raises:
        ValueError: no number of replicas keeps the objective, or the rate is none.
    """
    if rate <= 0 or not 0 < headroom <= 1:
        raise ValueError(
            f"a rate above 0 and a headroom up to 1 are needed, not {rate}, {headroom}"
        )
    costs = replace(costs, client=Cost(0, 0))  # the world's clients are many
    plans = []
    for batch in BATCHES:
        of_one_ingress = _BUSY_AT_MOST * batch / costs.ingress.of(batch)
        cells = math.ceil(rate / headroom / of_one_ingress)
        cell = _cell(costs, batch, rate / headroom / cells, objective_s)
        if cell:
            core_s = simulate(costs, cell, rate / cells, _seconds(rate / cells)).core_s
            plans.append(Plan(rate, cells, cell, rate * core_s / headroom))
    if not plans:
        alone = min(simulate(costs, compose(1, 1), 1.0, 60.0).latencies_s)
        raise ValueError(
            f"p99 of {objective_s} s can't be kept: a photo that is alone takes {alone:.3f} s"
        )
    return min(plans, key=lambda p: (p.classifiers, p.preprocessors, p.cell.batch.items))


def _seconds(rate: float) -> float:
    return max(_SECONDS, _PHOTOS / rate)


def _cell(costs: Costs, batch: int, rate: float, objective_s: float) -> Composition | None:
    """The smallest that keeps p99 at a rate; None where twice the least is not enough."""
    preprocessors = math.ceil(rate * costs.preprocessor.of(batch) / batch / _BUSY_AT_MOST)
    least = math.ceil(rate * costs.engine.of(batch) / batch)
    some = range(least, 2 * least + 3)

    def enough(classifiers: int) -> bool:
        cell = compose(classifiers, batch, preprocessors)
        return _keeps(costs, cell, objective_s, _seconds(rate), 0, rate)

    place = bisect_left(some, True, key=enough)
    return compose(some[place], batch, preprocessors) if place < len(some) else None


def read_costs(file: Path) -> Costs:
    """The costs in what `make capacity` wrote."""
    stored = json.loads(file.read_text(encoding="utf-8"))["costs"]
    return Costs(**{f.name: _value(stored[f.name]) for f in fields(Costs)})


def _value(stored: Any) -> Any:
    return Cost(**stored) if isinstance(stored, dict) else stored


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.planner", description=__doc__)
    parser.add_argument("--rate", type=float, nargs="+", required=True, help="photos/s")
    parser.add_argument("--p99-s", type=float, default=0.5)
    parser.add_argument(
        "--headroom", type=float, default=HEADROOM, help="share of the capacity in use"
    )
    parser.add_argument(
        "--costs", type=Path, default=PROJECT / "docs/capacity/serve_config.json",
        help="what `make capacity` wrote of such a machine",
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
    """Markdown, a row a plan."""
    rows = [
        "| photos/s | ingresses | preprocessors | classifiers | photos a batch | cores "
        f"| nodes of {_NODE_CORES} cores |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {each.rate:,.0f} | {each.cells:,} | {each.preprocessors:,} | {each.classifiers:,} "
        f"| {each.cell.batch.items} | {each.cores:,.1f} "
        f"| {math.ceil(each.cores / _NODE_CORES):,} |"
        for each in plans
    ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())

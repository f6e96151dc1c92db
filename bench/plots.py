"""The pictures of a bench run."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.load import OpenLoad


def draw(
    figures: dict[str, list[float]],
    budget: dict[str, list[float]],
    sizes: dict[str, dict[str, float]],
    connections: Sequence[int],
    out: Path,
) -> None:
    """Write load.png, batches.png and budget.png.

    Args:
        figures: "<n> connections: …" -> one value per round.
        budget: process, "decoding" or "inference" -> core-ms per photo, one value per round.
        sizes: queue -> upper bound of a batch's items -> number of batches up to that size.
    """
    out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        _load(figures, connections).savefig(out / "load.png", dpi=110)
        _batches(sizes).savefig(out / "batches.png", dpi=110)
        _budget(budget).savefig(out / "budget.png", dpi=110)


def _load(figures: dict[str, list[float]], connections: Sequence[int]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    rate, latency = figure.subplots(1, 2)
    series = ((rate, "photos/s", "C0", "photos/s"), (latency, "p50 ms", "C0", "p50"),
              (latency, "p99 ms", "C3", "p99"))  # fmt: skip
    for axes, unit, color, label in series:
        values = [figures[f"{n} connections: {unit}"] for n in connections]
        axes.plot(connections, list(map(statistics.median, values)), "o-", color=color, label=label)
        axes.fill_between(
            connections, list(map(min, values)), list(map(max, values)), color=color, alpha=0.15
        )
        axes.set_xscale("log", base=2)
        axes.set_xticks(connections, list(map(str, connections)))
        axes.set_xlabel("connections")
    rate.set_ylim(bottom=0)
    rate.set_title("Throughput, photos/s")
    latency.set_yscale("log")
    latency.set_title("Latency, ms")
    latency.legend(frameon=False)
    return figure


def _batches(sizes: dict[str, dict[str, float]]) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    names = {"small_photos": "Groups the ingress sent", "images": "Batches the engine ran"}
    for axes, (queue, title) in zip(figure.subplots(1, 2), names.items(), strict=True):
        bounds = sorted(sizes.get(queue, {}).items(), key=lambda bound: float(bound[0]))
        cumulated = [0.0, *(count for _, count in bounds)]
        counts = [b - a for a, b in itertools.pairwise(cumulated)]
        labels = [bound.removesuffix(".0").replace("+Inf", "more") for bound, _ in bounds]
        axes.bar(labels, counts, color="C0")
        axes.set_title(title)
        axes.set_xlabel("photos, up to")
    return figure


def _budget(budget: dict[str, list[float]]) -> Figure:
    medians = {name: statistics.median(values) for name, values in budget.items()}
    loop = ("decoding", "inference")
    shown = {n: m for n, m in medians.items() if n not in loop and m > 0.005}
    order = sorted(shown, key=lambda name: shown[name])
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.barh(order, [shown[name] for name in order], color="C0")
    bare = "Preprocessor", "Classifier"
    for name, part in zip(bare, loop, strict=True):
        axes.barh(
            [name],
            [medians[part]],
            color="C2",
            label="decoding, inference" if part == loop[0] else None,
        )
    axes.set_title("What a photo costs at 64 connections, core-ms, by process")
    axes.legend(frameon=False)
    return figure


def draw_overload(capacity: float, loads: Mapping[float, OpenLoad], file: Path) -> None:
    """Goodput and latencies over the offered load.

    Args:
        capacity: photos/s.
        loads: offered load in multiples of the capacity -> what became of it.
    """
    offered = sorted(loads)
    ordered = [loads[multiple] for multiple in offered]
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        goodput, latency, refusal = figure.subplots(1, 3)
        goodput.plot(offered, [load.rate / capacity for load in ordered], "o-", color="C0")
        goodput.set_title("Answered with 200, of capacity")
        latency.plot(offered, [1e3 * load.p50_s for load in ordered], "o-", color="C0", label="p50")
        latency.plot(offered, [1e3 * load.p99_s for load in ordered], "o-", color="C3", label="p99")
        latency.set_title("Latency of these, ms")
        latency.legend(frameon=False)
        refusal.plot(offered, [1e3 * load.refused_p99_s for load in ordered], "o-", color="C3")
        refusal.set_title("p99 of refusals, ms")
        for axes in (goodput, latency, refusal):
            axes.set_xlabel("offered load, of capacity")
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=110)


def draw_capacity(
    measured: Mapping[str, Sequence[float]], predicted: Mapping[str, float], file: Path
) -> None:
    """Measured beside predicted rates, by composition."""
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axes = figure.subplots()
        rates = list(map(statistics.median, measured.values()))
        least, most = map(min, measured.values()), map(max, measured.values())
        spread = [
            [rate - low for rate, low in zip(rates, least, strict=True)],
            [high - rate for rate, high in zip(rates, most, strict=True)],
        ]
        names = list(measured)
        axes.bar(names, rates, yerr=spread, color="C0", label="measured, median and range")
        axes.plot(names, [predicted[n] for n in names], "D", color="C3", label="predicted")
        axes.set_xlabel("classifiers × photos of a batch, at the most")
        axes.set_title("Highest Poisson rate that keeps p99, photos/s")
        axes.legend(frameon=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=110)

"""Writes the results of `make compare`: docs/one-model-or-four.md and its pictures."""
# ruff: noqa: E501  (a line here is a line of the page)

from __future__ import annotations

import inspect
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from deployments.serve_config import ServeConfig
from deployments.settings import PROJECT
from mlc_core.artifact import Artifact
from mlc_core.spec import HEADS
from mlc_core.training.network import MultiHeadNetwork

# figure -> the bound that the ratio of one to four should keep
_AIMS = {
    "engines alone: images/s": ("at least", 3.3),
    "64 connections: photos/s": ("at least", 2.4),
    "one photo under predict: ms": ("at most", 0.4),
    "of which not shared: MB (USS)": ("at most", 0.35),
}


def write_report(
    out: Path,
    models: Mapping[str, Artifact],
    accuracy: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Mapping[str, Sequence[float]]],
    precision: str,
    machine: Mapping[str, Any],
) -> Path:
    """Write one-model-or-four.md to `out`, its pictures to `out`/one-or-four.

    Args:
        models: name -> model; the first is the model of all heads.
        accuracy: one row per head.
        figures: figure -> "one" or "four" -> one value per round.

    Returns:
        The path of the text.
    """
    pictures = out / "one-or-four"
    pictures.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        _draw_accuracy(accuracy).savefig(pictures / "accuracy.png", dpi=110)
        _draw_cost(figures).savefig(pictures / "cost.png", dpi=110)
    report = out / "one-model-or-four.md"
    text = _text(models, accuracy, figures, precision, machine)
    report.write_text(text, encoding="utf-8")
    return report


def _text(
    models: Mapping[str, Artifact],
    accuracy: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Mapping[str, Sequence[float]]],
    precision: str,
    machine: Mapping[str, Any],
) -> str:
    one, *four = models.values()
    training = one.metrics["training"]
    recipe, data = training["recipe"], training["data"]
    rounds = len(next(iter(figures.values()))["one"])
    hardware = ", ".join(f"{key} {value}" for key, value in machine.items())
    return f"""# One model or four

Written by `make compare DATA=…`, which trains the five models, measures both variants and writes this page.

## What is compared
- **One**: one network with a branch for each of {", ".join(HEADS)}: what the product ships.
- **Four**: the same network class with one branch each; trunk and branch have the same widths.

All five were trained from scratch on the same {data["train_photos"]} photos, with one recipe and one
seed, for {recipe["epochs"]} epochs each ({recipe["precision"]}). They are served in {precision} by the same ingress and
preprocessor (`serve_config.yaml`, `configs/four_models.yaml`); with four, the preprocessor sends
each group to four classifiers at once and merges their answers.

Measured on {hardware}; {rounds} interleaved rounds, medians, least and most in brackets.

## Accuracy
On the same {one.metrics["test_photos"]} test photos, none of which, nor a twin, was trained on:

{_accuracy_table(accuracy)}

{_verdict(accuracy)} McNemar's exact test on the photos that just one of the two is right on;
intervals are 95% (Wilson; macro-F1: bootstrap).

![Accuracy a head](one-or-four/accuracy.png)

## Speed and cost

{_figure_table(figures)}

![Cost of four, relative to one](one-or-four/cost.png)

{_arithmetic(figures)}

## To keep

| | one | four |
|---|---|---|
| models to train, ship, watch and roll out together | 1 | 4 |
| multiply-adds a photo, millions | {_mega(one)} | {_mega(*four)} |
| artifact size, MB (all formats) | {_size(one)} | {_size(*four)} |
| training, minutes here | {_minutes(one)} | {_minutes(*four)} |
| lines to change when a label is added | {_lines_of_code()} | {_lines_of_code() + _lines_of_config()} |

Lines: a branch and the head's place in `HEADS`; with four models
also the label's block and its name in the Serve config.
"""


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    def named(sign: int) -> str:
        return ", ".join(r["head"] for r in rows if r["p"] < 0.05 and sign * _lead(r) > 0)

    return (
        f"Significantly better than a model of its own (p < 0.05): {named(1) or 'no head'}. "
        f"Significantly worse: {named(-1) or 'no head'}."
    )


def _accuracy_table(rows: Sequence[Mapping[str, Any]]) -> str:
    def cell(measured: Mapping[str, float]) -> str:
        return "{:.1%} ({:.1%}–{:.1%})".format(*(measured[k] for k in ("value", "low", "high")))

    keys = ("accuracy one", "accuracy four", "macro_f1 one", "macro_f1 four")
    lines = [
        "| head | accuracy, one | four | macro-F1, one | four | only one right | only four right | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['head']} | {' | '.join(cell(row[key]) for key in keys)} "
        f"| {row['only one right']} | {row['only four right']} | {_p(row['p'])} |"
        for row in rows
    ]
    return "\n".join(lines)


def _figure_table(figures: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    lines = ["| | one | four | one to four | asked |", "|---|---|---|---|---|"]
    for figure, variants in figures.items():
        values = [variants["one"], variants["four"]]
        cells = [f"{_number(_median(v))} ({_number(min(v))}–{_number(max(v))})" for v in values]
        ratios = [a / b for a, b in zip(*values, strict=False) if b]
        ratio = f"{_median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else ""
        asked = "{} {}".format(*_AIMS[figure]) if figure in _AIMS else ""
        lines.append(f"| {figure} | {' | '.join(cells)} | {ratio} | {asked} |")
    return "\n".join(lines)


def _arithmetic(figures: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    spent = {w: _median(v) for w, v in figures["core-ms per photo"].items()}
    own = {w: _median(v) for w, v in figures["of which in classifiers"].items()}
    rest = {variant: spent[variant] - own[variant] for variant in spent}
    cpu = spent["four"] / spent["one"]
    return f"""The ratio of throughput is lower than that of the engines, since most of a photo's cost is the
same for both variants. In core-ms a photo: one model spends {rest["one"]:.2f} on HTTP, grouping, decoding and
Ray, and {own["one"]:.2f} in its classifier; four spend {rest["four"]:.2f} (three calls more for each
group, and the merging) and {own["four"]:.2f}. So four cost {cpu:.2f} × as much CPU, and where
the cores are the limit, that is how much faster one can be. The classifiers alone: {own["four"] / own["one"]:.2f} ×."""


def _draw_accuracy(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    for offset, variant, color in ((-0.2, "one", "C0"), (0.2, "four", "C1")):
        values = [100 * row[f"accuracy {variant}"]["value"] for row in rows]
        low = [
            v - 100 * row[f"accuracy {variant}"]["low"] for v, row in zip(values, rows, strict=True)
        ]
        high = [
            100 * row[f"accuracy {variant}"]["high"] - v
            for v, row in zip(values, rows, strict=True)
        ]
        axes.bar(
            [n + offset for n in range(len(rows))], values, 0.38, yerr=[low, high], capsize=3,
            color=color, label={"one": "one model", "four": "a model of its own"}[variant],
        )  # fmt: skip
    axes.set_xticks(range(len(rows)), [row["head"] for row in rows])
    axes.set_ylim(0, 105)
    axes.set_title("Accuracy on the test split, %, with 95% intervals")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_cost(figures: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    chosen = {
        "one photo under predict: ms": "time of one photo under predict",
        "1 connections: p50 ms": "p50 at 1 connection",
        "32 connections: p50 ms": "p50 at 32 connections",
        "32 connections: p99 ms": "p99 at 32 connections",
        "core-ms per photo": "CPU per photo",
        "of which not shared: MB (USS)": "classifiers' own memory",
        "whole service: MB (PSS)": "memory of the whole service",
        "start to ready: s": "start-up",
    }
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    names = list(chosen)[::-1]
    times = [_median(figures[n]["four"]) / _median(figures[n]["one"]) for n in names]
    bars = axes.barh([chosen[name] for name in names], times, color="C1")
    axes.bar_label(bars, [f"{each:.1f} ×" for each in times], padding=3)
    axes.axvline(1, color="C0")
    axes.set_title("Four models, where one model is 1 (the line)")
    return figure


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else "< 0.0001"


def _lead(row: Mapping[str, Any]) -> int:
    return int(row["only one right"] - row["only four right"])


def _lines_of_code() -> int:
    branch = inspect.getsource(MultiHeadNetwork.sub_category_branch).splitlines()
    return len(branch) + 1  # its place in HEADS


def _lines_of_config() -> int:
    *_, block = ServeConfig.read(PROJECT / "configs/four_models.yaml").classifiers()
    return 1 + len(block) + len(block["user_config"])


def _mega(*models: Artifact) -> str:
    return f"{sum(m.metrics['network']['multiply_adds'] for m in models) / 1e6:.1f}"


def _size(*models: Artifact) -> str:
    return f"{sum(f.stat().st_size for m in models for f in m.path.iterdir()) / 1e6:.1f}"


def _minutes(*models: Artifact) -> str:
    return f"{sum(m.metrics['training']['spent_s'] for m in models) / 60:.1f}"


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"  # fmt: skip

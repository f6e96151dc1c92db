"""Reports the findings of a run: a table, a line of JSON, plots, and an exit code."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import matplotlib as mpl
from locust.env import Environment
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.findings import Findings
from loadtest.percentiles import percentile
from loadtest.slo import Objectives

KEPT, MISSED, BROKEN = 0, 1, 2
# A generator that sends later than this share of the p99 that it measures, measures itself.
_LATE_SHARE, _LATE_LEAST_S = 0.1, 0.005
_PERCENTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


def report(environment: Environment, findings: Findings, objectives: Objectives, to: TextIO) -> int:
    """Write the report to `to` and into the folder of `--out`.

    Returns:
        KEPT; MISSED, if the run missed an objective; BROKEN, if it says nothing about the service:
        nothing was answered well, the roll-out failed, or the generator was the limit.
    """
    options: Any = environment.parsed_options
    out = Path(options.out)
    entries = {name: each for (name, _), each in environment.stats.entries.items()
               if name != "/v1/model"}  # fmt: skip
    measured = _measured(list(entries.values()), findings)
    broken = _broken(environment, findings, measured)
    missed = objectives.missed(measured)
    code = BROKEN if broken else MISSED if missed else KEPT
    loop = "open loop, Poisson arrivals" if options.open_loop else "closed loop"
    line = {
        "scenario": type(environment.shape_class).__name__, "loop": loop, "peak": options.peak,
        "seconds": options.seconds, "measured": measured, "missed": missed, "broken": broken,
        "routes": {name: _summary(each) for name, each in entries.items()},
        "faults": {str(e.error): e.occurrences for e in environment.stats.errors.values()},
        "versions": dict(findings.versions), "replicas": _replicas(findings), "exit_code": code,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    draw(findings.history, [(name, each.response_times) for name, each in entries.items()],
         out / "load.png")  # fmt: skip
    text = json.dumps(line)
    (out / "result.json").write_text(text + "\n", encoding="utf-8")
    to.write(f"\n{_table(line, objectives)}\nplots in {out}\n{text}\n")
    to.flush()
    return code


def _measured(entries: Sequence[Any], findings: Findings) -> dict[str, float]:
    total = sum(each.num_requests for each in entries)
    failed = sum(each.num_failures for each in entries)
    refused = findings.counts["refused"]
    times = sum((Counter(each.response_times) for each in entries), Counter[int]())
    last = max((each.last_request_timestamp or 0.0 for each in entries), default=0.0)
    lasted_s = last - findings.began
    return {
        "p50_s": percentile(times, 0.5) / 1e3,
        "p99_s": percentile(times, 0.99) / 1e3,
        "error_share": (failed - refused) / total if total else 1.0,
        "refused_share": refused / total if total else 0.0,
        "requests_per_s": (total - failed) / lasted_s if total else 0.0,
        "photos_per_s": findings.counts["photos"] / lasted_s if total else 0.0,
        "requests": total,
        "late_p99_s": percentile(findings.late, 0.99) / 1e3 if findings.late else 0.0,
        "dropped": findings.counts["dropped"],
    }


def _broken(
    environment: Environment, findings: Findings, measured: Mapping[str, float]
) -> list[str]:
    reasons = list(findings.problems)
    if not measured["requests"]:
        reasons.append("no request was sent: is --host right, did the users start?")
    elif not measured["requests_per_s"]:
        reasons.append("nothing was answered well: is the service up?")
    if measured["late_p99_s"] > max(_LATE_SHARE * measured["p99_s"], _LATE_LEAST_S):
        reasons.append(
            f"the generator sent one request of a hundred {measured['late_p99_s']:g} s late or "
            "later: run more workers (--processes), or ask for less"
        )
    if measured["dropped"]:
        reasons.append(
            f"{measured['dropped']:.0f} arrivals were dropped, since too many waited for an "
            "answer: run more workers, or ask for less"
        )
    if environment.runner is not None and environment.runner.cpu_log_warning():
        reasons.append("the generator's own core was busy: run more workers (--processes)")
    return reasons


def _summary(entry: Any) -> dict[str, float]:
    return {
        "requests": entry.num_requests,
        "failures": entry.num_failures,
        "p50_s": percentile(entry.response_times, 0.5) / 1e3,
        "p99_s": percentile(entry.response_times, 0.99) / 1e3,
    }


def _replicas(findings: Findings) -> dict[str, list[float]]:
    """Deployment -> the numbers of its replicas, in the order they were seen."""
    seen: dict[str, list[float]] = {}
    for entry in findings.history:
        for name, value in entry.items():
            deployment, _, what = name.rpartition(" ")
            if what == "replicas":
                numbers = seen.setdefault(deployment, [])
                if not numbers or numbers[-1] != value:
                    numbers.append(value)
    return seen


def _table(line: Mapping[str, Any], objectives: Objectives) -> str:
    limits = objectives.model_dump()
    lines = [f"{line['scenario']}: {line['loop']}, peak {line['peak']:g}, {line['seconds']:g} s"]
    for name, value in line["measured"].items():
        limit = limits.get(name)
        bound = ">=" if name == "requests_per_s" else "<="
        asked = "" if limit is None else f"   asked {bound} {limit:g}"
        lines.append(f"{name:>16} {value:12.4g}{asked}{'   MISSED' * (name in line['missed'])}")
    for name, summary in line["routes"].items():
        lines.append(f"{name}: " + ", ".join(f"{key} {value:g}" for key, value in summary.items()))
    lines += [f"{count} × {fault}" for fault, count in line["faults"].items()]
    for title in ("versions", "replicas"):
        lines += [f"{title}: {name} {value}" for name, value in line[title].items()]
    lines += [f"BROKEN: {reason}" for reason in line["broken"]]
    return "\n".join(lines)


def draw(
    history: Sequence[Mapping[str, float]],
    times: Sequence[tuple[str, Mapping[int, int]]],
    file: Path,
) -> None:
    """Throughput with refusals, latency and replicas over time, and percentiles.

    Args:
        times: name -> response time in milliseconds -> how often.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(12, 6.5), layout="constrained")
        (rate, latency), (replicas, spread) = figure.subplots(2, 2)
        names = sorted({name for entry in history for name in entry})
        rates = [name for name in names if name.endswith("_per_s")]
        versions = [name for name in rates if name.startswith("version ")]
        shown = rates if len(versions) > 1 else [name for name in rates if name not in versions]
        _curves(rate, history, shown, "Requests a second")
        _curves(latency, history, ["p50_s", "p99_s"], "Latency, s")
        _curves(replicas, history, [n for n in names if n.endswith("replicas")], "Replicas")
        for name, histogram in times:
            values = [percentile(histogram, share) / 1e3 for share in _PERCENTILES]
            spread.plot(range(len(values)), values, marker="o", label=name)
        spread.set_xticks(range(len(_PERCENTILES)), [f"{100 * s:g}" for s in _PERCENTILES])
        spread.set(title="Latency by percentile, s", ylim=(0, None))
        for axes in (rate, latency, replicas, spread):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False, fontsize=8)
        figure.savefig(file, dpi=100)


def _curves(
    axes: Axes, history: Sequence[Mapping[str, float]], names: Sequence[str], title: str
) -> None:
    for name in names:
        label = name.removesuffix("_per_s").removesuffix("_s").removesuffix(" replicas")
        axes.plot([entry["at_s"] for entry in history],
                  [entry.get(name, math.nan) for entry in history], label=label)  # fmt: skip
    axes.set(title=title, ylim=(0, None), xlabel="s since the start")

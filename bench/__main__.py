"""`make bench`: what a photo costs and how fast answers come, on what `make serve` starts.

Rounds are interleaved: machines drift, but ratios within a run hold. It ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import psutil

from bench import say
from bench.baseline import bare_loop, write_config
from bench.load import ClosedLoop, open_loop
from bench.overload import overload
from bench.plots import draw
from bench.servers import SLOW_FLAGS, Server, json_of, machine, run_in_subprocess
from deployments.settings import PROJECT
from samples.photos import large_photos, small_photos

CONNECTIONS = (1, 8, 16, 32, 64, 128)
SMALL, LARGE = small_photos(256), large_photos(48)
MIXED = [photo for n in range(48) for photo in (*SMALL[4 * n : 4 * n + 4], LARGE[n])]

Figures = dict[str, list[float]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument(
        "--overload-seconds", type=float, default=60.0, help="of the loads at 3 × the capacity"
    )
    parser.add_argument("--out", type=Path, default=PROJECT / "docs/bench", help="of the pictures")
    args = parser.parse_args()
    figures: Figures = defaultdict(list)
    budget: dict[str, list[float]] = defaultdict(list)
    sizes: dict[str, dict[str, float]] = {}
    for number in range(1, args.rounds + 1):
        say(f"round {number} of {args.rounds}: decoding and inferring in a bare loop")
        _bare(figures, budget, args.seconds)
        with tempfile.TemporaryDirectory() as folder:
            say(f"round {number} of {args.rounds}: the obvious composition")
            with Server(write_config(Path(folder), "obvious"), SLOW_FLAGS) as server:
                _obvious(server, figures, args.seconds)
            say(f"round {number} of {args.rounds}: empty calls between deployments")
            with Server(write_config(Path(folder), "empty_calls")) as server:
                _empty_calls(server, figures)
        say(f"round {number} of {args.rounds}: this service")
        with Server() as server:
            sizes = _ours(server, figures, budget, args.seconds)
    _derive(figures)
    _table(figures)
    draw(figures, budget, sizes, CONNECTIONS, args.out)
    say("overload")
    pressed = overload(args.seconds, args.overload_seconds, args.out)
    say(f"pictures in {args.out}")
    report = {name: _summary(values) for name, values in sorted(figures.items())}
    costs = {name: _summary(values) for name, values in budget.items()}
    line = {"machine": machine(), "rounds": args.rounds, "figures": report, "core_ms": costs,
            "overload": pressed}  # fmt: skip
    sys.stdout.write(json.dumps(line) + "\n")
    return 0


def _bare(figures: Figures, budget: dict[str, list[float]], seconds: float) -> None:
    small = run_in_subprocess(bare_loop, SMALL, seconds)
    large = run_in_subprocess(bare_loop, LARGE, seconds, 8)
    figures["bare loop, small photos: photos/s"].append(small["rate"])
    figures["bare loop, large photos: photos/s"].append(large["rate"])
    figures["bare loop: core-ms/photo"].append(1e3 * (small["decode_s"] + small["infer_s"]))
    budget["decoding"].append(1e3 * small["decode_s"])
    budget["inference"].append(1e3 * small["infer_s"])


def _obvious(server: Server, figures: Figures, seconds: float) -> None:
    load = ClosedLoop(SMALL)
    load(server.url, 64, 3)
    result = load(server.url, 64, seconds)
    figures["obvious composition, 64 connections: photos/s"].append(result.rate)
    figures["obvious composition: failures"].append(result.failures)


def _empty_calls(server: Server, figures: Figures) -> None:
    json_of(server.url)  # the first request opens connections
    call = json_of(server.url)
    figures["empty call: median ms"].append(1e3 * call["median_s"])
    figures["empty call: core-ms of its caller"].append(1e3 * call["cpu_s"])


def _ours(
    server: Server, figures: Figures, budget: dict[str, list[float]], seconds: float
) -> dict[str, dict[str, float]]:
    figures["start to ready: s"].append(server.ready_s)
    figures["classifier, start to ready: s"].append(server.classifier_ready_s())
    load = ClosedLoop(SMALL)
    load(server.url, 64, 3)
    for connections in CONNECTIONS:
        before, machine_before = server.cpu_s(), psutil.cpu_times()
        result = load(server.url, connections, seconds)
        after, machine_after = server.cpu_s(), psutil.cpu_times()
        figures[f"{connections} connections: photos/s"].append(result.rate)
        figures[f"{connections} connections: p50 ms"].append(1e3 * result.p50_s)
        figures[f"{connections} connections: p99 ms"].append(1e3 * result.p99_s)
        figures["failures"].append(result.failures)
        if connections == 64:
            spent = {n: 1e3 * (after[n] - before.get(n, 0)) / result.answers for n in after}
            figures["64 connections: core-ms/photo"].append(sum(spent.values()))
            idle_s = machine_after.idle - machine_before.idle
            figures["64 connections: share of the cores idle"].append(
                idle_s / (sum(machine_after) - sum(machine_before))
            )
            for name, core_ms in spent.items():
                budget[name].append(core_ms)
    sizes = server.batch_sizes()
    result = ClosedLoop(LARGE)(server.url, 16, seconds)
    figures["large photos: photos/s"].append(result.rate)
    figures["failures"].append(result.failures)
    capacity = ClosedLoop(MIXED)(server.url, 32, seconds).rate
    small = (SMALL, 0.8 * capacity / 2)
    alone = open_loop(server.url, {"small": small}, 2 * seconds)["small"]
    mixed = open_loop(
        server.url, {"small": small, "large": (LARGE, 0.2 * capacity / 2)}, 2 * seconds
    )
    figures["open loop, small alone: p99 ms"].append(1e3 * alone.p99_s)
    figures["open loop, small among large: p99 ms"].append(1e3 * mixed["small"].p99_s)
    figures["failures"].append(alone.failures + sum(part.failures for part in mixed.values()))
    memory = server.memory_bytes()
    figures["whole service: MB (PSS)"].append(sum(memory.values()) / 1e6)
    figures["classifier: MB (PSS)"].append(memory["Classifier"] / 1e6)
    return sizes


def _derive(figures: Figures) -> None:
    """Add ratios, round by round. They hold on a noisy machine."""

    def ratio(name: str, over: str, under: str) -> None:
        pairs = zip(figures[over], figures[under], strict=True)
        figures[name] = [a / b for a, b in pairs]

    ratio("ratio: 64 connections to the obvious composition",
          "64 connections: photos/s", "obvious composition, 64 connections: photos/s")  # fmt: skip
    ratio("ratio: large photos to a bare loop",
          "large photos: photos/s", "bare loop, large photos: photos/s")  # fmt: skip
    ratio("ratio: p99 to p50 at 32 connections",
          "32 connections: p99 ms", "32 connections: p50 ms")  # fmt: skip
    ratio("ratio: p99 of small photos among large to alone",
          "open loop, small among large: p99 ms", "open loop, small alone: p99 ms")  # fmt: skip
    both = zip(figures["64 connections: core-ms/photo"], figures["bare loop: core-ms/photo"],
               strict=True)  # fmt: skip
    figures["all but decoding and inference: core-ms/photo"] = [a - b for a, b in both]


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def _table(figures: Figures) -> None:
    width = max(map(len, figures))
    say(f"{'':{width}} {'median':>10} {'min':>10} {'max':>10}")
    for name, values in figures.items():
        median, least, most = _summary(values).values()
        say(f"{name:{width}} {median:10.2f} {least:10.2f} {most:10.2f}")


if __name__ == "__main__":
    sys.exit(main())

"""`make observability`: what metrics, request log and ids cost, and what the dashboard shows.

Two services run side by side and are loaded in turn, so that a machine that drifts drifts for
both. CPU seconds are /proc's, of every process of a service.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import urllib.request
from collections import defaultdict
from pathlib import Path
from threading import Timer

import yaml

from bench.dashboard import draw_dashboard
from bench.load import ClosedLoop
from bench.servers import Server, machine
from deployments.settings import PROJECT
from samples.photos import small_photos

_CONNECTIONS = 64

CoreMs = dict[str, float]  # process -> core-ms a photo


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.observability", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="pairs of measurements")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--part", type=float, default=30.0, help="seconds of a part of the day")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs", help="of the pictures")
    args = parser.parse_args()
    cost = measure_cost(args.rounds, args.seconds)
    pictures = draw_dashboard(args.out / "dashboard", args.part)
    _say(f"wrote {', '.join(str(picture) for picture in pictures)}")
    sys.stdout.write(json.dumps({"machine": machine(), "rounds": args.rounds, **cost}) + "\n")
    return 0


def measure_cost(rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Core-ms a photo with and without, and the ratio of each pair of measurements."""
    load = ClosedLoop(small_photos(256))
    figures: dict[str, list[float]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server() as observed,
        Server(_unobserved(Path(folder))) as bare,
    ):
        ways = {"with": observed, "without": bare}
        for server in ways.values():
            load(server.url, _CONNECTIONS, 3)
        for number in range(rounds):
            spent = {}
            for way in list(ways)[:: 1 if number % 2 else -1]:  # neither is always the first
                spent[way] = _core_ms(ways[way], load, seconds, scraped=way == "with")
            for way, each in spent.items():
                figures[f"{way}: core-ms/photo"].append(sum(each.values()))
                for process in ("Ingress", "Preprocessor", "Classifier"):
                    figures[f"{way}, {process}: core-ms/photo"].append(each[process])
            ratio = sum(spent["with"].values()) / sum(spent["without"].values())
            figures["ratio of with to without"].append(ratio)
            _say(f"round {number + 1} of {rounds}: {ratio:.3f}")
        with urllib.request.urlopen(f"{bare.url}/metrics", timeout=10) as answer:  # noqa: S310
            if b"ray_mlc_" in answer.read():
                raise RuntimeError("the service without metrics has some: nothing was compared")
    width = max(map(len, figures))
    for name, values in figures.items():
        median, least, most = statistics.median(values), min(values), max(values)
        _say(f"{name:{width}} {median:8.3f} ({least:.3f} to {most:.3f})")
    return {
        name: {"median": statistics.median(v), "min": min(v), "max": max(v)}
        for name, v in figures.items()
    }


def _core_ms(server: Server, load: ClosedLoop, seconds: float, *, scraped: bool) -> CoreMs:
    """Core-ms a photo by process; scraped once, which is more often than operators do."""

    def scrape() -> None:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:  # noqa: S310
            answer.read()

    before = server.cpu_s()
    if scraped:
        Timer(seconds / 2, scrape).start()
    result = load(server.url, _CONNECTIONS, seconds)
    after = server.cpu_s()
    if result.failures:
        raise RuntimeError(f"{result.failures} requests failed")
    return {name: 1e3 * (after[name] - before.get(name, 0.0)) / result.answers for name in after}


def _unobserved(folder: Path) -> Path:
    """serve_config.yaml, built by bench.unobserved."""
    config = yaml.safe_load((PROJECT / "serve_config.yaml").read_text(encoding="utf-8"))
    config["applications"][0]["import_path"] = "bench.unobserved:build"
    path = folder / "unobserved.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

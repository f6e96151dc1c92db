"""`make observability`: what metrics and the request log cost, and what the dashboard shows.

One service observes and does not observe in turn, so a drifting machine affects both sides alike.
CPU seconds come from /proc, for every process of the service.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from threading import Timer

from bench import say
from bench.dashboard import draw_dashboard
from bench.load import ClosedLoop
from bench.servers import Server, machine
from bench.switchable import OFF
from deployments.serve_config import ServeConfig
from deployments.settings import PROJECT
from samples.photos import small_photos

_CONNECTIONS = 64
_SCRAPED_EVERY_S = 15.0  # under load, as an operator's Prometheus does

CoreMs = dict[str, float]  # process -> core-ms per photo


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.observability", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="pairs of measurements")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--part", type=float, default=30.0, help="seconds of each part of the day")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs", help="of the pictures")
    args = parser.parse_args()
    cost = measure_cost(args.rounds, args.seconds)
    pictures = draw_dashboard(args.out / "dashboard", args.part)
    say(f"wrote {', '.join(str(picture) for picture in pictures)}")
    sys.stdout.write(json.dumps({"machine": machine(), "rounds": args.rounds, **cost}) + "\n")
    return 0


def measure_cost(rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Core-ms per photo with and without observing, and the ratio of each pair of measurements."""
    load = ClosedLoop(small_photos(256))
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, Server(_switchable(Path(folder))) as server:
        off = server.run_directory / OFF
        load(server.url, _CONNECTIONS, 5)
        for number in range(rounds):
            spent: dict[str, CoreMs] = {}
            for side in ("with", "without")[:: 1 if number % 2 else -1]:  # neither is always first
                off.unlink(missing_ok=True) if side == "with" else off.touch()
                time.sleep(0.5)  # replicas check the switch ten times a second
                scraped = side == "with" and number % round(_SCRAPED_EVERY_S / seconds) == 0
                logged = _logged_bytes(server)
                spent[side] = _core_ms(server, load, seconds, scraped=scraped)
                time.sleep(0.5)  # lines are written ten times a second
                if (_logged_bytes(server) > logged) != (side == "with"):
                    raise RuntimeError(f"the switch does not switch: requests logged {side}")
            for side, each in spent.items():
                figures[f"{side}: core-ms per photo"].append(sum(each.values()))
                for process in ("Ingress", "Preprocessor", "Classifier"):
                    figures[f"{side}, {process}: core-ms per photo"].append(each[process])
            ratio = sum(spent["with"].values()) / sum(spent["without"].values())
            figures["ratio of with to without"].append(ratio)
            say(f"round {number + 1} of {rounds}: {ratio:.3f}")
    width = max(map(len, figures))
    for name, values in figures.items():
        median, least, most = statistics.median(values), min(values), max(values)
        say(f"{name:{width}} {median:8.3f} ({least:.3f} to {most:.3f})")
    ratios = figures["ratio of with to without"]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if rounds > 1 else float("nan")
    say(f"mean ratio {statistics.mean(ratios):.3f}, its standard error {error:.3f}")
    return {
        name: {"median": statistics.median(v), "min": min(v), "max": max(v)}
        for name, v in figures.items()
    }


def _logged_bytes(server: Server) -> int:
    return sum(file.stat().st_size for file in server.logs.glob("requests_*.log"))


def _core_ms(server: Server, load: ClosedLoop, seconds: float, *, scraped: bool) -> CoreMs:
    """Core-ms per photo by process, with one scrape or none."""

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


def _switchable(folder: Path) -> Path:
    """serve_config.yaml, built by bench.switchable."""
    application = {"name": "mlc", "import_path": "bench.switchable:build"}
    config = ServeConfig.read(PROJECT / "serve_config.yaml")
    return config.merge({"applications": [application]}).write(folder / "switchable.yaml")


if __name__ == "__main__":
    sys.exit(main())

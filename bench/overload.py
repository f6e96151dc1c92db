"""The overload part of `make bench`: what the service does with more photos than it can answer.

The service runs on one core, the generator on another. Photos arrive as a Poisson process, at
multiples of the capacity: what wrk gets answered over 64 connections. It ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import say
from bench.load import ClosedLoop, Load, OpenLoad, open_loop
from bench.plots import draw_overload
from bench.servers import Server, machine, run_in_subprocess
from deployments.serve_config import ServeConfig
from deployments.settings import PROJECT
from samples.photos import small_photos

SMALL = small_photos(256)
USUAL, OVERLOAD = 0.5, 3.0  # offered load, in multiples of the capacity
MULTIPLES = (USUAL, 0.8, 1.0, 1.5, 2.0, OVERLOAD, 5.0)
RECOVERY_S = 5.0  # before each open loop, so that none suffers from the one before
RETRYING = 1000  # connections whose clients retry at once
# At most 300 photos/s in batches of any size, so refusing costs nothing that answers need.
EMULATED = {"engine": "emulated", "emulated_batch_s": 0.0, "emulated_image_s": 1 / 300}


@dataclass(frozen=True)
class Pressed:
    """What a service with its own engine, and with the emulated one, did with too many photos.

    Attributes:
        capacity: photos/s over 64 connections.
        loads: offered load in multiples of the capacity -> what became of it.
        after: USUAL again, after the overload.
        retrying: what RETRYING connections got, over each of which a client retries at once.
        emulated_capacity: photos/s over 64 connections, of the emulated engine.
        emulated: OVERLOAD of that engine.
    """

    capacity: float
    loads: dict[float, OpenLoad]
    after: OpenLoad
    retrying: Load
    emulated_capacity: float
    emulated: OpenLoad


@dataclass(frozen=True)
class Target:
    """A figure, and the most that it may be, or the least."""

    name: str
    measured: float
    bound: float
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """False for NaN."""
        if self.at_least:
            return self.measured >= self.bound
        return self.measured <= self.bound


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument(
        "--overload-seconds", type=float, default=60.0, help="of the loads at 3 × the capacity"
    )
    parser.add_argument("--out", type=Path, default=PROJECT / "docs/bench", help="of the picture")
    args = parser.parse_args()
    report = overload(args.seconds, args.overload_seconds, args.out)
    sys.stdout.write(json.dumps({"machine": machine(), "overload": report}) + "\n")
    return 0


def overload(seconds: float, overload_s: float, out: Path) -> dict[str, Any]:
    """Measure, print the tables, draw overload.png, and return what a line of JSON holds.

    Raises:
        RuntimeError: this process may use one core only.
    """
    pressed = _press(seconds, overload_s)
    reached = targets(pressed)
    _loads_table(pressed)
    _targets_table(reached)
    draw_overload(pressed.capacity, pressed.loads, out / "overload.png")
    say(f"picture in {out}")
    report = asdict(pressed) | {
        "targets": [asdict(target) | {"reached": target.reached} for target in reached]
    }
    return _without_nan(report)  # type: ignore[no-any-return]


def targets(pressed: Pressed) -> list[Target]:
    """What the service must do with too many photos, beside what it did."""
    most = pressed.loads[OVERLOAD]
    everything = [*pressed.loads.values(), pressed.after, pressed.emulated]
    refusing = [load.refused_p99_s for load in everything if load.refusals]
    share = most.rate / pressed.capacity
    emulated = pressed.emulated.rate / pressed.emulated_capacity
    retrying = pressed.retrying.rate / pressed.capacity
    recovered = pressed.after.p99_s / pressed.loads[USUAL].p99_s
    others = sum(sum(load.others.values()) for load in everything)
    return [
        Target("3 × the capacity: answered, of the capacity", share, 0.8, at_least=True),
        Target("3 × the capacity: p99 of the answered, s", most.p99_s, 1.0),
        Target("all loads: answered after the deadline", sum(e.overdue for e in everything), 0),
        Target("all loads: highest p99 of refusals, s", max(refusing, default=math.nan), 0.1),
        Target("all loads: 503 without problem+json or Retry-After",
               sum(load.improper for load in everything), 0),
        Target("all loads: other statuses than 200 and 503", others, 0),
        Target("all loads: connections refused or reset", sum(e.lost for e in everything), 0),
        Target("all loads: never answered", sum(e.unanswered for e in everything), 0),
        Target("5 s after: p99 at half the capacity, to before", recovered, 1.5),
        Target("emulated engine, 3 ×: answered, of its capacity", emulated, 0.97, at_least=True),
        Target("1,000 connections: answered, of 64 connections", retrying, 0.6, at_least=True),
    ]  # fmt: skip


def _press(seconds: float, overload_s: float) -> Pressed:
    loop = ClosedLoop(SMALL)
    service, generator = _two_cores()

    def closed(server: Server, connections: int) -> Load:
        with _on_core(generator):
            return loop(server.url, connections, seconds)

    def capacity(server: Server) -> float:
        with _on_core(generator):
            loop(server.url, 64, 3)
        return closed(server, 64).rate

    def opened(server: Server, rate: float, seconds: float) -> OpenLoad:
        with _on_core(generator):
            time.sleep(RECOVERY_S)
            return run_in_subprocess(_open_loop, server.url, rate, seconds)

    with _on_core(service), tempfile.TemporaryDirectory() as folder:
        with Server() as server:
            ours = capacity(server)
            say(f"the capacity is {ours:.0f} photos/s")
            loads = {}
            for multiple in MULTIPLES:
                lasts = overload_s if multiple == OVERLOAD else seconds
                say(f"{multiple:g} × the capacity for {lasts:g} s")
                loads[multiple] = opened(server, multiple * ours, lasts)
                if multiple == OVERLOAD:
                    after = opened(server, USUAL * ours, seconds)
                    retrying = closed(server, RETRYING)
        config = ServeConfig.read(PROJECT / "serve_config.yaml").with_user_config(**EMULATED)
        with Server(config.write(Path(folder) / "emulated.yaml")) as server:
            emulated = capacity(server)
            say(f"{OVERLOAD:g} × the capacity of the emulated engine, {emulated:.0f} photos/s")
            most = opened(server, OVERLOAD * emulated, overload_s)
    return Pressed(ours, loads, after, retrying, emulated, most)


def _open_loop(url: str, rate: float, seconds: float) -> OpenLoad:
    deadline_s = ServeConfig.read(PROJECT / "serve_config.yaml").settings.deadline_s
    sent = open_loop(
        url, {"": (SMALL, rate)}, seconds, deadline_s=deadline_s, wait_s=2 * deadline_s
    )
    return sent[""]


def _two_cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise RuntimeError("two cores are needed: one for the service, one for the generator")
    return cores[0], cores[1]


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Processes that start meanwhile run on one core, and so do those that they start."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _loads_table(pressed: Pressed) -> None:
    columns = ("offered/s", "200/s", "p50 ms", "p99 ms", "overdue", "503/s", "its p99 ms",
               "late p99 ms", "waited", "improper", "lost", "unanswered", "others")  # fmt: skip
    rows = {f"{multiple:g} × capacity": pressed.loads[multiple] for multiple in MULTIPLES}
    rows |= {f"{USUAL:g} × again, 5 s after": pressed.after, "emulated, 3 ×": pressed.emulated}
    width = max(map(len, rows))
    say(f"{'':{width}} " + " ".join(f"{column:>11}" for column in columns))
    for name, load in rows.items():
        figures = (load.offered, load.rate, 1e3 * load.p50_s, 1e3 * load.p99_s, load.overdue,
                   load.refusals / load.seconds, 1e3 * load.refused_p99_s, 1e3 * load.late_s,
                   load.waited, load.improper, load.lost, load.unanswered)  # fmt: skip
        others = ", ".join(f"{count} × {status}" for status, count in load.others.items()) or "0"
        say(f"{name:{width}} " + " ".join(f"{each:11.1f}" for each in figures) + f" {others:>11}")
    say(
        f"closed loops: 64 connections {pressed.capacity:.0f} photos/s, "
        f"{RETRYING} connections {pressed.retrying.rate:.0f}; "
        f"emulated engine, 64 connections {pressed.emulated_capacity:.0f}"
    )


def _targets_table(reached: list[Target]) -> None:
    width = max(len(target.name) for target in reached)
    say(f"{'':{width}} {'target':>8} {'measured':>10}")
    for each in reached:
        bound = f"{'≥' if each.at_least else '≤'} {each.bound:g}"
        missed = "" if each.reached else "   MISSED"
        say(f"{each.name:{width}} {bound:>8} {each.measured:10.3f}{missed}")


def _without_nan(value: Any) -> Any:
    """The value as JSON can hold it: None instead of NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value


if __name__ == "__main__":
    sys.exit(main())

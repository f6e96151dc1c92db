"""`make chaos`: kills one process after another under a steady load, and says what that costs.

Photos arrive as a Poisson process at half of the capacity, what wrk gets answered over 64
connections. Every few seconds one process of the service gets a SIGKILL. It ends with a verdict for
each number of replicas, a line of JSON, and an exit code of 1 if one is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench import say
from bench.client import LOST, UNANSWERED, Outcomes
from bench.load import BoolArray, ClosedLoop, FloatArray, timed_loop
from bench.servers import Server, machine, process_name
from deployments.serve_config import ServeConfig
from deployments.settings import PROJECT
from launcher.processes import processes
from samples.photos import small_photos

SMALL = small_photos(256)
VICTIMS = ("Preprocessor", "Classifier", "Ingress", "ServeController", "HAProxy", "ProxyActor",
           "HAProxyManager", "DashboardAgent", "RuntimeEnvAgent")  # fmt: skip
MAY_HOLD = ("Ingress", "HAProxy")  # what they hold when they are killed is lost
WITHIN_S = {"HAProxy": 3.0, "Preprocessor": 5.0, "Classifier": 5.0}  # an answer comes again
MOST_FAILED = 0.02  # of all requests, with one replica of each
OK = 200


@dataclass(frozen=True)
class Kill:
    """What one kill cost.

    Attributes:
        held: requests on their way when it came.
        failed: requests that were held, or left after it and were not held at the next kill, and
            were not answered with 200. One that got no connection counts from when it failed.
        silent_s: the longest time without a good answer until the next kill.
        statuses: of those that failed; 0 and 1 for no answer and a lost connection.
    """

    victim: str
    held: int
    failed: int
    silent_s: float
    statuses: dict[int, int]


@dataclass(frozen=True)
class Chaos:
    """What a service with so many replicas of each deployment went through.

    Attributes:
        offered: requests per second.
        sent: requests.
    """

    replicas: int
    offered: float
    sent: int
    p99_s: float
    kills: list[Kill]

    @property
    def failed(self) -> int:
        return sum(kill.failed for kill in self.kills)

    def missed(self) -> list[str]:
        """The promises that it broke; empty when it kept all."""
        broken = []
        for kill in self.kills:
            within_s = WITHIN_S.get(kill.victim)
            most = sys.maxsize
            if self.replicas > 1:
                most = kill.held if kill.victim in MAY_HOLD else 0
                if kill.victim == "HAProxy":  # nothing listens until it is back
                    most += round(self.offered * kill.silent_s)
            if kill.failed > most:
                broken.append(f"{kill.victim}: {kill.failed} failed, at most {most}")
            if within_s is not None and kill.silent_s > within_s:
                broken.append(f"{kill.victim}: silent for {kill.silent_s:.1f} s")
        if self.failed > MOST_FAILED * self.sent:
            broken.append(f"{self.failed / self.sent:.1%} failed, at most {MOST_FAILED:.0%}")
        return broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument(
        "--replicas", type=int, nargs="+", default=[2, 1], help="of each deployment"
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rate", type=float, help="photos/s; half of the capacity by default")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two kills")
    parser.add_argument("--victims", nargs="+", default=VICTIMS, choices=VICTIMS)
    args = parser.parse_args()
    runs = [
        chaos(count, args.rate, args.seconds, args.every, args.victims) for count in args.replicas
    ]
    for run in runs:
        _table(run)
    missed = [text for run in runs for text in run.missed()]
    sys.stdout.write(
        json.dumps({"machine": machine(), "chaos": [asdict(run) for run in runs]}) + "\n"
    )
    return 1 if missed else 0


def chaos(
    replicas: int, rate: float | None, seconds: float, every_s: float, victims: Sequence[str]
) -> Chaos:
    """Kill the victims in turn, again and again, one every `every_s`."""
    config = ServeConfig.read(PROJECT / "serve_config.yaml").merge({"applications": [{"name": "mlc",
        "deployments": [{"name": name, "num_replicas": replicas}
                        for name in ("Ingress", "Preprocessor", "Classifier")]}]})  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(config.write(Path(folder) / "config.yaml")) as server,
    ):
        loop = ClosedLoop(SMALL)
        loop(server.url, 64, 3)
        rate = rate or loop(server.url, 64, 5).rate / 2
        say(f"{replicas} of each: {rate:.0f} photos/s, a kill every {every_s:g} s")
        killed: list[tuple[float, str]] = []
        over = threading.Event()
        killer = threading.Thread(
            target=_kill_in_turn,
            args=(server.port, seconds, every_s, victims, killed, over),
            daemon=True,
        )
        killer.start()
        times, outcomes = timed_loop(server.url, SMALL, rate, seconds)
        over.set()
        killer.join()
    return _judge(replicas, rate, times, outcomes, killed)


def _kill_in_turn(
    port: int, seconds: float, every_s: float, victims: Sequence[str],
    killed: list[tuple[float, str]], over: threading.Event,
) -> None:  # fmt: skip
    until = time.monotonic() + seconds - every_s / 2  # what the last kill costs must show
    for victim in itertools.cycle(victims):
        if over.wait(every_s) or time.monotonic() > until:
            return
        found = [each for each in processes(port) if process_name(each) == victim]
        if not found:
            say(f"there is no {victim}")
            continue
        killed.append((time.monotonic(), victim))
        found[0].kill()
        say(f"killed one of {len(found)} {victim}")


def _judge(
    replicas: int, rate: float, times: FloatArray, outcomes: Outcomes,
    killed: Sequence[tuple[float, str]],
) -> Chaos:  # fmt: skip
    good = outcomes.status == OK
    came = np.where(outcomes.left_s > 0, outcomes.left_s, outcomes.ended_s)
    ends = [at for at, _ in killed[1:]] + [np.inf]
    kills = []
    for (at, victim), end in zip(killed, ends, strict=True):
        held = _held(outcomes, at)
        charged = ~good & (((came >= at) & (came < end) & ~_held(outcomes, end)) | held)
        answered = outcomes.ended_s[good & (outcomes.ended_s > at) & (outcomes.ended_s < end)]
        silent_s = np.diff(np.sort([at, *answered])).max(initial=0.0) if len(answered) else np.inf
        statuses, counts = np.unique(outcomes.status[charged], return_counts=True)
        kills.append(
            Kill(
                victim,
                int(held.sum()),
                int(charged.sum()),
                float(silent_s),
                dict(zip(statuses.tolist(), counts.tolist(), strict=True)),
            )
        )
    latencies = (outcomes.ended_s - times)[good]
    return Chaos(replicas, rate, len(times), float(np.quantile(latencies, 0.99)), kills)


def _held(outcomes: Outcomes, at: float) -> BoolArray:
    """The requests that were on their way then."""
    return (outcomes.left_s < at) & (outcomes.ended_s >= at) & (outcomes.left_s > 0)


def _table(run: Chaos) -> None:
    say(f"\n{run.replicas} of each, {run.offered:.0f} photos/s, p99 {run.p99_s:.2f} s")
    say("| killed | kills | held | failed | longest silence, s | statuses of the failed |")
    say("|---|---|---|---|---|---|")
    names = {LOST: "connection lost", UNANSWERED: "unanswered"}
    for victim in dict.fromkeys(kill.victim for kill in run.kills):
        kills = [kill for kill in run.kills if kill.victim == victim]
        statuses = {
            status: sum(kill.statuses.get(status, 0) for kill in kills)
            for kill in kills for status in kill.statuses
        }  # fmt: skip
        text = ", ".join(f"{names.get(s, s)}: {count}" for s, count in statuses.items()) or "–"
        say(
            f"| {victim} | {len(kills)} | {sum(k.held for k in kills)} "
            f"| {sum(k.failed for k in kills)} | {max(k.silent_s for k in kills):.1f} | {text} |"
        )
    say(f"{run.failed} of {run.sent} failed ({run.failed / run.sent:.2%})")
    say("kept" if not run.missed() else "missed: " + "; ".join(run.missed()))


if __name__ == "__main__":
    sys.exit(main())

"""`make soak`: mixed traffic for half an hour, and whether anything grows meanwhile.

A short closed loop as fast as it goes has every process take the memory that a peak needs. Then
small photos arrive as a Poisson process. Beside them, one after the other: large photos, batch
requests, photos of every format and broken ones, clients that hang up, the page, the contract, the
metrics. Once a minute it notes the memory and the open files of each process, and the size of the
logs. It ends with a verdict, a line of JSON, and an exit code of 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import statistics
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import httpx
import numpy as np
import psutil

from bench import say
from bench.load import ClosedLoop, timed_loop
from bench.servers import Server, machine, process_name
from launcher.processes import processes
from samples.photos import every_format, large_photos, small_photos

WARM_UP = 5  # minutes; what grows in them does not count
MOST_GROWTH = 0.02  # of a process' memory
MOST_DRIFT = 0.1  # of the p99
MOST_FILES = 8  # more that a process may have open than after the warm-up
MOST_LOG_BYTES = 200 * 2**20
_PEAK_CONNECTIONS, _PEAK_S = 256, 20.0
_MEASURED = 3  # minutes at either end, of which the median counts
_SMALLEST_BYTES = 20 * 2**20  # a smaller process may grow by 2% of this
_OK = 200


@dataclass(frozen=True)
class Minute:
    """One minute.

    Attributes:
        failed: small photos that were not answered with 200.
        memory_bytes: process -> its proportional share of memory (PSS).
        files: process -> open file descriptors.
        log_bytes: of all logs of Ray and Serve.
    """

    p99_s: float
    failed: int
    memory_bytes: dict[str, int]
    files: dict[str, int]
    log_bytes: int


@dataclass(frozen=True)
class Soak:
    """What a service went through.

    Attributes:
        others: status -> requests beside the small photos; 0 for clients that hung up.
    """

    offered: float
    minutes: list[Minute]
    others: dict[int, int]

    def ends(self, figure: Callable[[Minute], float]) -> tuple[float, float]:
        """The median after the warm-up, and that of the last minutes."""
        warm = [figure(minute) for minute in self.minutes[WARM_UP:]]
        return statistics.median(warm[:_MEASURED]), statistics.median(warm[-_MEASURED:])

    def missed(self) -> list[str]:
        """The promises that it broke; empty when it kept all."""
        broken = []
        if failed := sum(minute.failed for minute in self.minutes):
            broken.append(f"{failed} photos failed")
        if errors := sum(count for status, count in self.others.items() if status >= 500):
            broken.append(f"{errors} other requests got a 5xx")
        first, last = self.ends(lambda minute: minute.p99_s)
        if last > (1 + MOST_DRIFT) * first:
            broken.append(f"p99 went from {first:.3f} to {last:.3f} s")
        for name in self.minutes[-1].memory_bytes:
            first, last = self.ends(lambda minute: minute.memory_bytes.get(name, 0))  # noqa: B023
            if last - first > MOST_GROWTH * max(first, _SMALLEST_BYTES):
                broken.append(f"{name} grew from {first / 2**20:.1f} to {last / 2**20:.1f} MiB")
            first, last = self.ends(lambda minute: minute.files.get(name, 0))  # noqa: B023
            if last - first > MOST_FILES:
                broken.append(f"{name} had {first:.0f} files open, then {last:.0f}")
        if (size := self.minutes[-1].log_bytes) > MOST_LOG_BYTES:
            broken.append(f"logs of {size / 2**20:.0f} MiB")
        return broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--rate", type=float, default=200.0, help="small photos per second")
    args = parser.parse_args()
    if args.minutes < WARM_UP + 2 * _MEASURED:
        parser.error(f"--minutes must be {WARM_UP + 2 * _MEASURED} at least")
    run = soak(args.rate, args.minutes)
    _table(run)
    say(json.dumps({"machine": machine(), "soak": asdict(run)}))
    return 1 if run.missed() else 0


def soak(rate: float, minutes: int) -> Soak:
    """Run a service for so many minutes."""
    small, noted = small_photos(256), []
    with Server() as server, _others(server) as statuses:
        ClosedLoop(small)(server.url, _PEAK_CONNECTIONS, _PEAK_S)
        for number in range(1, minutes + 1):
            times, outcomes = timed_loop(server.url, small, rate, 60.0)
            good = outcomes.status == _OK
            p99_s = float(np.quantile((outcomes.ended_s - times)[good], 0.99))
            noted.append(
                Minute(
                    p99_s, int((~good).sum()), server.memory_bytes(), _files(server), _logs(server)
                )
            )
            say(f"minute {number}: p99 {1000 * p99_s:.0f} ms, {noted[-1].failed} failed")
        return Soak(rate, noted, dict(statuses))


@contextmanager
def _others(server: Server) -> Iterator[Counter[int]]:
    """What arrives beside the small photos."""
    statuses: Counter[int] = Counter()
    over = threading.Event()
    large, formats = large_photos(8), [photo for _, photo in every_format()]
    broken = [photo[: len(photo) // 2] for photo in formats] + [b"a dress", b""]

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
            for number in itertools.count():
                if over.wait(0.1):
                    return
                batch = [("images", photo) for photo in (*formats[:6], broken[number % 7])]
                for method, path, sent in (
                    ("POST", "/v1/classify", {"content": large[number % len(large)]}),
                    ("POST", "/v1/classify", {"content": formats[number % len(formats)]}),
                    ("POST", "/v1/classify", {"content": broken[number % len(broken)]}),
                    ("POST", "/v1/classify/batch", {"files": batch}),
                    ("GET", ("/", "/openapi.json", "/v1/model", "/metrics")[number % 4], {}),
                ):
                    statuses[client.request(method, path, **sent).status_code] += 1
                _hang_up(server.port, large[number % len(large)])
                statuses[0] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        over.set()
        thread.join()


def _hang_up(port: int, photo: bytes) -> None:
    """Send a photo but for its end, and leave."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        head = f"POST /v1/classify HTTP/1.1\r\nHost: mlc\r\nContent-Length: {len(photo)}\r\n\r\n"
        connection.sendall(head.encode() + photo[:-1000])


def _files(server: Server) -> dict[str, int]:
    opened: dict[str, int] = defaultdict(int)
    for process in processes(server.port):
        try:
            opened[process_name(process)] += process.num_fds()
        except psutil.NoSuchProcess:
            continue
    return dict(opened)


def _logs(server: Server) -> int:
    logs = server.run_directory / "session_latest/logs"
    return sum(file.stat().st_size for file in logs.rglob("*") if file.is_file())


def _table(run: Soak) -> None:
    say("| process | MiB after 5 minutes | at the end | files open after 5 minutes | at the end |")
    say("|---|---|---|---|---|")
    for name in sorted(run.minutes[-1].memory_bytes):
        memory = run.ends(lambda minute: minute.memory_bytes.get(name, 0) / 2**20)  # noqa: B023
        files = run.ends(lambda minute: minute.files.get(name, 0))  # noqa: B023
        say(f"| {name} | {memory[0]:.1f} | {memory[1]:.1f} | {files[0]:.0f} | {files[1]:.0f} |")
    p99 = run.ends(lambda minute: minute.p99_s)
    logs = run.ends(lambda minute: minute.log_bytes / 2**20)
    say(f"p99 {p99[0]:.3f} s after 5 minutes, {p99[1]:.3f} s at the end")
    say(f"logs {logs[0]:.1f} MiB after 5 minutes, {logs[1]:.1f} MiB at the end")
    say(f"other requests: {run.others}")
    say("kept" if not run.missed() else "missed: " + "; ".join(run.missed()))


if __name__ == "__main__":
    sys.exit(main())

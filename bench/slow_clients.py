"""`make slow-clients`: connections that send a byte a second, and what the others notice.

Half of them never end the head of their request, half never end its body. It ends with a verdict, a
line of JSON, and an exit code of 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from bench import say
from bench.load import timed_loop
from bench.servers import Server, machine
from samples.photos import small_photos

MOST_TIMES = 2.0  # the p99 beside them, over that without them
CUT_OFF_WITHIN_S = 45.0  # settings.upload_timeout_s, and what its response takes
_OPEN_WITHIN_S = 60.0
_ROUNDS = 5
_OK = 200


@dataclass(frozen=True)
class SlowClients:
    """What honest clients got with and without slow ones.

    Attributes:
        alone_p99_s: of each round before the slow clients came.
        beside_p99_s: of each round beside them.
        failed: honest requests that were not answered with 200.
        longest_s: how long the longest of the slow connections lived; infinite if one was left.
    """

    clients: int
    alone_p99_s: list[float]
    beside_p99_s: list[float]
    failed: int
    longest_s: float

    @property
    def times(self) -> float:
        return statistics.median(self.beside_p99_s) / statistics.median(self.alone_p99_s)

    def missed(self) -> list[str]:
        """The promises that it broke; empty when it kept all."""
        broken = []
        if self.failed:
            broken.append(f"{self.failed} honest requests failed")
        if self.times > MOST_TIMES:
            broken.append(f"p99 {self.times:.1f} times as long, at most {MOST_TIMES:g}")
        if self.longest_s > CUT_OFF_WITHIN_S:
            broken.append(f"a connection lived for {self.longest_s:.0f} s")
        return broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.slow_clients", description=__doc__)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=100.0, help="honest photos per second")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a round")
    args = parser.parse_args()
    with Server() as server:
        run = beside_slow_clients(server, args.clients, args.rate, args.seconds)
    say(f"p99 without slow clients {_ms(run.alone_p99_s)} ms, beside {run.clients} "
         f"{_ms(run.beside_p99_s)} ms: {run.times:.2f} times; {run.failed} failed; the longest "
         f"slow connection lived for {run.longest_s:.0f} s")  # fmt: skip
    say("kept" if not run.missed() else "missed: " + "; ".join(run.missed()))
    say(json.dumps({"machine": machine(), "slow_clients": asdict(run)}))
    return 1 if run.missed() else 0


def beside_slow_clients(server: Server, clients: int, rate: float, seconds: float) -> SlowClients:
    """Measure honest requests first alone, then beside slow clients."""
    photos, failed = small_photos(64), 0

    def round_p99_s() -> float:
        nonlocal failed
        times, outcomes = timed_loop(server.url, photos, rate, seconds)
        good = outcomes.status == _OK
        failed += int((~good).sum())
        return float(np.quantile((outcomes.ended_s - times)[good], 0.99))

    round_p99_s()
    alone = [round_p99_s() for _ in range(_ROUNDS)]
    with _slow(server.port, clients) as lives_s:
        beside = [round_p99_s() for _ in range(_ROUNDS)]
    return SlowClients(clients, alone, beside, failed, max(lives_s))


@contextmanager
def _slow(port: int, clients: int) -> Iterator[list[float]]:
    """Keep so many slow connections, each replaced when it is cut off; how long each lived.

    In a process of their own, so that they take no time from the honest clients.
    """
    lives_s: list[float] = []
    spawn = get_context("spawn")
    opened, over, lives = spawn.Event(), spawn.Event(), spawn.SimpleQueue()
    process = spawn.Process(target=_trickle_all, args=(port, clients, opened, over, lives))
    process.start()
    try:
        if not opened.wait(_OPEN_WITHIN_S):
            raise TimeoutError(f"{clients} connections were not open within {_OPEN_WITHIN_S} s")
        yield lives_s
    finally:
        over.set()
        lives_s.extend(lives.get())
        process.join()


def _trickle_all(port: int, clients: int, opened: Any, over: Any, lives: Any) -> None:
    lives_s: list[float] = []

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(_trickle(port, number, over, lives_s))
                if number % 50 == 0:
                    await asyncio.sleep(0.05)
            opened.set()

    asyncio.run(all_of_them())
    lives.put(lives_s)


async def _trickle(port: int, number: int, over: Any, lives_s: list[float]) -> None:
    """One slow client; it comes again when it is cut off."""
    head = b"POST /v1/classify HTTP/1.1\r\nHost: mlc\r\nContent-Length: 2000\r\n"
    while not over.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        answer = asyncio.ensure_future(reader.read())
        try:
            writer.write(head + b"\r\n" if number % 2 else head[:9])
            while not answer.done() and time.monotonic() - began < 2 * CUT_OFF_WITHIN_S:
                await asyncio.wait([answer], timeout=1.0)
                writer.write(b"x")
                await writer.drain()
        except ConnectionError:
            pass  # it was cut off
        lives_s.append(time.monotonic() - began)
        answer.cancel()
        writer.close()


def _ms(seconds: list[float]) -> str:
    low, high = min(seconds), max(seconds)
    return f"{1000 * statistics.median(seconds):.1f} ({1000 * low:.1f}–{1000 * high:.1f})"


if __name__ == "__main__":
    sys.exit(main())

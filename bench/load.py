"""Load on a service: a closed loop with wrk, an open loop with Poisson arrivals."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import uvloop

from bench.client import LOST, UNANSWERED, Client, Outcomes
from loadtest.levels import arrivals, steady
from loadtest.percentiles import p99

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

Result = TypeVar("Result")

_PHOTO = {"Content-Type": "image/jpeg"}
_TICK_S = 0.001  # an open loop sends this often, so a request departs up to a tick late
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Load:
    """The result of a load.

    Attributes:
        answers: requests that were answered with 200.
        failures: all other requests, including those without an answer.
    """

    answers: int
    failures: int
    seconds: float
    p50_s: float
    p99_s: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds


@dataclass(frozen=True)
class OpenLoad(Load):
    """The result of an open loop.

    Attributes:
        late_s: p99 of the seconds by which the generator itself was late.
        waited: requests that waited for a connection, since too many were open.
        answers_by_end: answers until the time of the load is over.
        overdue: answers that took longer than the deadline.
        refusals: requests that were answered with 503.
        refused_p99_s: p99 of the seconds between the departure on a connection and a refusal.
        improper: refusals that are not problem+json, or do not say when to retry.
        lost: requests whose connection was refused, reset or closed.
        unanswered: requests that were given up when all others had ended.
        others: status -> answers that are neither 200 nor 503.
    """

    late_s: float
    waited: int
    answers_by_end: int
    overdue: int
    refusals: int
    refused_p99_s: float
    improper: int
    lost: int
    unanswered: int
    others: dict[int, int]

    @property
    def rate(self) -> float:
        """Answers per second. Those that waited at the end of the load do not count."""
        return self.answers_by_end / self.seconds

    @property
    def offered(self) -> float:
        """Requests per second."""
        return (self.answers + self.failures) / self.seconds


class ClosedLoop:
    """wrk, which sends bodies in turn over a number of connections.

    Args:
        bodies: photos, for the default path.

    Raises:
        FileNotFoundError: wrk is not installed.
    """

    def __init__(
        self,
        bodies: Sequence[bytes],
        path: str = "/v1/classify",
        headers: Mapping[str, str] = _PHOTO,
    ) -> None:
        if shutil.which("wrk") is None:
            raise FileNotFoundError("wrk is needed: scripts/install-test-packages installs it")
        self._path = path
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        for number, body in enumerate(bodies):
            (folder / str(number)).write_bytes(body)
        self._script = folder / "bodies.lua"
        fields = ", ".join(f'["{name}"] = "{value}"' for name, value in headers.items())
        self._script.write_text(
            f"local bodies, turn = {{}}, 0\n"
            f"for n = 0, {len(bodies) - 1} do\n"
            f'  local file = io.open("{folder}/" .. n, "rb")\n'
            f'  bodies[n] = file:read("*a"); file:close()\n'
            f"end\n"
            f"local headers = {{{fields}}}\n"
            f"function request()\n"
            f"  turn = (turn + 1) % {len(bodies)}\n"
            f'  return wrk.format("POST", nil, headers, bodies[turn])\n'
            f"end\n"
        )

    def __call__(self, url: str, connections: int, seconds: float) -> Load:
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--latency",
                   "--duration", f"{seconds:.0f}s", "--timeout", "10s",
                   "--script", str(self._script), f"{url}{self._path}"]  # fmt: skip
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        answered, took = _search(r"(\d+) requests in ([\d.]+)s", text)
        refused = _search(r"Non-2xx or 3xx responses: (\d+)", text, "0")[0]
        lost = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", text)))
        return Load(
            answers=int(answered) - int(refused),
            failures=int(refused) + lost,
            seconds=float(took),
            p50_s=_duration(r"50%\s+([\d.]+)(us|ms|s|m)", text),
            p99_s=_duration(r"99%\s+([\d.]+)(us|ms|s|m)", text),
        )


def open_loop(
    url: str,
    streams: dict[str, tuple[Sequence[bytes], float]],
    seconds: float,
    seed: int = 0,
    *,
    deadline_s: float = math.inf,
    wait_s: float = 60.0,
) -> dict[str, OpenLoad]:
    """Send photos at the times of a Poisson process, whether earlier ones are answered or not.

    Latency counts from the intended time, so it includes the delay of a generator or service that
    falls behind.

    Args:
        streams: name -> photos, and how many of them to send per second.
        deadline_s: answers that take longer are counted as overdue.
        wait_s: how long to wait for the last answers.
    """
    chance = np.random.default_rng(seed)
    arriving = sorted(
        (at, name)
        for name, (_, rate) in streams.items()
        for at in arrivals(steady, rate, seconds, chance)
    )
    photos = {name: _requests(url, photos) for name, (photos, _) in streams.items()}
    requests = [(at, next(photos[name])) for at, name in arriving]
    start, outcomes = _run(_send(url, requests, wait_s))
    times = start + np.array([at for at, _ in arriving])
    names = np.array([name for _, name in arriving], str)
    return {
        name: _summary(outcomes, times, names == name, start + seconds, seconds, deadline_s)
        for name in streams
        if name in names
    }


def timed_loop(
    url: str, photos: Sequence[bytes], rate: float, seconds: float, wait_s: float = 20.0
) -> tuple[FloatArray, Outcomes]:
    """Send photos as `open_loop` does.

    Returns:
        The intended times of the requests, on the monotonic clock, and what became of each.
    """
    due = list(arrivals(steady, rate, seconds, np.random.default_rng(0)))
    requests = list(zip(due, _requests(url, photos), strict=False))
    start, outcomes = _run(_send(url, requests, wait_s))
    return start + np.array(due), outcomes


def _run(sending: Coroutine[Any, Any, Result]) -> Result:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(sending)


def _requests(url: str, photos: Sequence[bytes]) -> Iterator[bytes]:
    """The bytes of requests with these photos in turn."""
    host = urlsplit(url).netloc
    return itertools.cycle(
        f"POST /v1/classify HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(photo)}\r\n\r\n".encode()
        + photo
        for photo in photos
    )


async def _send(
    url: str, requests: Sequence[tuple[float, bytes]], wait_s: float
) -> tuple[float, Outcomes]:
    """Send requests, each at its seconds since the start, which it returns."""
    address = urlsplit(url)
    client = Client(address.hostname or "", address.port or 80, len(requests))
    start, number = time.monotonic(), 0
    while number < len(requests):
        now = time.monotonic() - start
        while number < len(requests) and requests[number][0] <= now:
            client.send(number, requests[number][1])
            number += 1
        if number < len(requests):
            await asyncio.sleep(max(_TICK_S, requests[number][0] - now))
    with suppress(TimeoutError):
        await asyncio.wait_for(client.finished.wait(), wait_s)
    client.close()
    await asyncio.sleep(0)  # the connections close
    return start, client.outcomes


def _summary(
    outcomes: Outcomes,
    times: FloatArray,
    chosen: BoolArray,
    end: float,
    seconds: float,
    deadline_s: float,
) -> OpenLoad:
    """The load of the chosen requests. `times` are the intended ones of all requests."""
    status = outcomes.status[chosen]
    good, refused = status == HTTPStatus.OK, status == HTTPStatus.SERVICE_UNAVAILABLE
    left_s, ended_s = outcomes.left_s[chosen], outcomes.ended_s[chosen]
    latencies = (ended_s - times[chosen])[good].tolist()
    others = status[~good & ~refused & (status != UNANSWERED) & (status != LOST)]
    return OpenLoad(
        answers=len(latencies),
        failures=len(status) - len(latencies),
        seconds=seconds,
        p50_s=statistics.median(latencies or [math.nan]),
        p99_s=p99(latencies),
        late_s=p99((outcomes.called_s - times)[chosen].tolist()),
        waited=int(outcomes.waited[chosen].sum()),
        answers_by_end=int((good & (ended_s <= end)).sum()),
        overdue=sum(latency > deadline_s for latency in latencies),
        refusals=int(refused.sum()),
        refused_p99_s=p99((ended_s - left_s)[refused].tolist()),
        improper=int((refused & ~outcomes.proper[chosen]).sum()),
        lost=int((status == LOST).sum()),
        unanswered=int((status == UNANSWERED).sum()),
        others=dict(Counter(others.tolist())),
    )


def _search(pattern: str, text: str, default: str | None = None) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if found is None and default is None:
        raise RuntimeError(f"wrk said: {text}")
    return found.groups() if found else (str(default),)


def _duration(pattern: str, text: str) -> float:
    number, unit = _search(pattern, text)
    return float(number) * _SECONDS[unit]

"""Load on a service: a closed loop with wrk, an open loop with Poisson arrivals."""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp
import numpy as np

from loadtest.levels import arrivals, steady
from loadtest.percentiles import p99

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Load:
    """The result of a load.

    Attributes:
        answers: requests that were answered with 200.
        failures: all other requests, including those without an answer.
        late_s: in an open loop, p99 of the seconds between the intended and the actual departure.
    """

    answers: int
    failures: int
    seconds: float
    p50_s: float
    p99_s: float
    late_s: float = 0.0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds


class ClosedLoop:
    """wrk, which sends the photos in turn over a number of connections.

    Raises:
        FileNotFoundError: wrk is not installed.
    """

    def __init__(self, photos: Sequence[bytes]) -> None:
        if shutil.which("wrk") is None:
            raise FileNotFoundError("wrk is needed: scripts/install-test-packages installs it")
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        for number, photo in enumerate(photos):
            (folder / str(number)).write_bytes(photo)
        self._script = folder / "photos.lua"
        self._script.write_text(
            f"local photos, turn = {{}}, 0\n"
            f"for n = 0, {len(photos) - 1} do\n"
            f'  local file = io.open("{folder}/" .. n, "rb")\n'
            f'  photos[n] = file:read("*a"); file:close()\n'
            f"end\n"
            f'local headers = {{["Content-Type"] = "image/jpeg"}}\n'
            f"function request()\n"
            f"  turn = (turn + 1) % {len(photos)}\n"
            f'  return wrk.format("POST", nil, headers, photos[turn])\n'
            f"end\n"
        )

    def __call__(self, url: str, connections: int, seconds: float) -> Load:
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--latency",
                   "--duration", f"{seconds:.0f}s", "--timeout", "10s",
                   "--script", str(self._script), f"{url}/v1/classify"]  # fmt: skip
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
    url: str, streams: dict[str, tuple[Sequence[bytes], float]], seconds: float, seed: int = 0
) -> dict[str, Load]:
    """Send photos at the times of a Poisson process, whether earlier ones are answered or not.

    Latency counts from the intended time, so it includes the delay of a generator or service that
    falls behind.

    Args:
        streams: name -> photos, and how many of them to send per second.
    """

    async def send(session: aiohttp.ClientSession, photo: bytes, at: float) -> _Sent:
        late_s = time.monotonic() - at
        try:
            async with session.post(f"{url}/v1/classify", data=photo) as answer:
                await answer.read()
                return _Sent(time.monotonic() - at, answer.status == 200, late_s)
        except (aiohttp.ClientError, TimeoutError):
            return _Sent(time.monotonic() - at, False, late_s)

    async def run() -> dict[str, list[_Sent]]:
        chance = np.random.default_rng(seed)
        times = sorted(
            (at, name)
            for name, (_, rate) in streams.items()
            for at in arrivals(steady, rate, seconds, chance)
        )
        tasks: dict[str, list[asyncio.Task[_Sent]]] = {name: [] for name in streams}
        headers = {"Content-Type": "image/jpeg"}
        async with aiohttp.ClientSession(
            headers=headers, connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            start = time.monotonic()
            for at, name in times:
                await asyncio.sleep(max(0.0, start + at - time.monotonic()))
                photos, sent = streams[name][0], tasks[name]
                photo = photos[len(sent) % len(photos)]
                sent.append(asyncio.create_task(send(session, photo, start + at)))
            return {name: await asyncio.gather(*sent) for name, sent in tasks.items()}

    return {
        name: _summary(results, seconds) for name, results in asyncio.run(run()).items() if results
    }


class _Sent(NamedTuple):
    latency_s: float
    good: bool
    late_s: float


def _summary(sent: list[_Sent], seconds: float) -> Load:
    latencies = [each.latency_s for each in sent if each.good]
    return Load(
        answers=len(latencies),
        failures=len(sent) - len(latencies),
        seconds=seconds,
        p50_s=statistics.median(latencies or [float("nan")]),
        p99_s=p99(latencies),
        late_s=p99(each.late_s for each in sent),
    )


def _search(pattern: str, text: str, default: str | None = None) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if found is None and default is None:
        raise RuntimeError(f"wrk said: {text}")
    return found.groups() if found else (str(default),)


def _duration(pattern: str, text: str) -> float:
    number, unit = _search(pattern, text)
    return float(number) * _SECONDS[unit]

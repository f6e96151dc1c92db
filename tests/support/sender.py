"""Photos at random moments to a service, whatever it answers: tests/kubernetes runs it in a pod.

    python sender.py HOST PORT RATE [fresh] < a pipe that is closed when it is enough

Connections are kept and the last one used is used again, as an ingress controller does; with
`fresh`, each request has one of its own. Nothing is tried twice, and a connection that the service
has closed while it was idle is not noticed before it is used. It prints its findings as JSON.
"""

from __future__ import annotations

import asyncio
import collections
import io
import json
import random
import sys
import time

import numpy as np
from PIL import Image

TIMEOUT_S = 30


def photo(seed: int) -> bytes:
    chance, file = np.random.default_rng(seed), io.BytesIO()
    small = Image.fromarray(chance.integers(0, 255, (8, 6, 3), np.uint8))
    small.resize((60, 80), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


class Sender:
    """Counts outcomes: `200`, another status, or what became of the connection."""

    def __init__(self, host: str, port: int, *, fresh: bool) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.models: collections.Counter[str] = collections.Counter()
        self.details: collections.Counter[str] = collections.Counter()
        self.outside_the_contract: list[str] = []
        self.lost: list[tuple[float, str]] = []
        self.took_s: list[float] = []
        self._host, self._port, self._fresh = host, port, fresh
        self._kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._began = time.time()

    async def send(self, body: bytes) -> None:
        began, kind, writer = time.perf_counter(), "kept", None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if self._kept:
                    reader, writer = self._kept.pop()
                else:
                    kind = "new"
                    reader, writer = await asyncio.open_connection(self._host, self._port)
                head = (
                    f"POST /v1/classify HTTP/1.1\r\nHost: {self._host}\r\n"
                    f"Content-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
                )
                writer.write(head.encode() + body)
                status, headers, answer = await self._answer(reader)
        except (OSError, EOFError, TimeoutError) as error:
            self._note(f"{kind}: {type(error).__name__}")
            if writer:
                writer.close()
            return
        self._note(str(status))
        self.took_s.append(time.perf_counter() - began)
        self._check(status, headers, answer)
        if self._fresh or headers.get("connection") == "close":
            writer.close()
        else:
            self._kept.append((reader, writer))

    @staticmethod
    async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").splitlines()
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        answer = await reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, answer

    def _note(self, outcome: str) -> None:
        self.outcomes[outcome] += 1
        if outcome != "200":
            self.lost.append((round(time.time() - self._began, 1), outcome))

    def _check(self, status: int, headers: dict[str, str], answer: bytes) -> None:
        try:
            said = json.loads(answer)
            if status == 200:
                self.models["/".join(said["model"].values())] += 1
                kept = set(said["labels"]) >= {"color", "category"}
            else:
                self.details[f"{status} {said['detail']}"] += 1
                kept = headers["content-type"] == "application/problem+json"
                kept = (
                    kept
                    and said["status"] == status
                    and (status != 503 or "retry-after" in headers)
                )
        except (ValueError, KeyError):
            kept = False
        if not kept:
            self.outside_the_contract.append(f"{status} {answer[:80].decode('latin1')}")

    def findings(self) -> dict[str, object]:
        ordered = sorted(self.took_s) or [0.0]
        return {
            "sent": self.outcomes.total(),
            "lost": len(self.lost),
            "outcomes": self.outcomes,
            "details": self.details,
            "lost_at": [*self.lost[:40], *self.lost[40:][-10:]],  # the first ones, and the last
            "outside_the_contract": self.outside_the_contract[:5],
            "models": self.models,
            "p50_s": round(ordered[len(ordered) // 2], 3),
            "p99_s": round(ordered[int(len(ordered) * 0.99)], 3),
            "longest_s": round(ordered[-1], 1),
        }


async def main(host: str, port: str, rate: str, *options: str) -> None:
    sender, tasks = Sender(host, int(port), fresh="fresh" in options), set()
    photos = [photo(seed) for seed in range(100)]
    enough = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    at = time.perf_counter()
    while not enough.done():
        at += random.expovariate(float(rate))
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        task = asyncio.create_task(sender.send(random.choice(photos)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    sys.stdout.write(json.dumps(sender.findings()) + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

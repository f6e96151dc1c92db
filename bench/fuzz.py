"""`make fuzz`: thousands of requests that no honest client sends, and what they do to the others.

Photos and requests are drawn with hypothesis, and from the contract with schemathesis. Meanwhile
clients that send a byte a second stay connected, and honest photos are asked for all the time. It
ends with a verdict, a line of JSON, and an exit code of 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings

from bench import say
from bench.mutations import CLASSIFY, Attack, attacks
from bench.servers import Server, machine
from launcher.processes import processes
from samples.photos import small_photos

MOST_GROWTH = 0.05  # of the memory of all processes
CONTRACT_SHARE = 0.2  # of the requests: from the contract
WARM_UP_SHARE = 0.2  # of the drawn requests: before memory is measured first
_ANSWERED_WITHIN_S = 30.0
_DELIBERATE = (503, 504)
_SLOW_CLIENTS = 50
_ERROR = 500


@dataclass(frozen=True)
class Fuzz:
    """What became of the requests and of the service.

    Attributes:
        statuses: of whole requests; 0 where there was no answer.
        broken: what broke the contract, with the bytes that did it.
        honest: honest requests.
        wrong: honest requests that were not answered as before.
        ended: processes that are gone.
        growth: of the memory of all processes, after the warm-up.
        grown_bytes: by process, those that grew by a megabyte at least.
        contract: what schemathesis found; empty if nothing.
    """

    requests: int
    statuses: dict[int, int]
    broken: list[str]
    honest: int
    wrong: list[str]
    ended: int
    growth: float
    grown_bytes: dict[str, int]
    contract: str

    def missed(self) -> list[str]:
        """The promises that it broke; empty when it kept all."""
        said = [f"a bad answer: {text}" for text in self.broken[:5]]
        said += [f"an honest request got {text}" for text in self.wrong[:5]]
        if self.ended:
            said.append(f"{self.ended} processes ended")
        if self.growth > MOST_GROWTH:
            said.append(f"memory grew by {self.growth:.1%}, at most {MOST_GROWTH:.0%}")
        if self.contract:
            said.append(f"schemathesis: {self.contract}")
        return said


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with Server() as server:
        run = fuzz(server, args.requests, args.seed)
    counts = ", ".join(f"{status}: {count}" for status, count in sorted(run.statuses.items()))
    say(f"{run.requests} requests; statuses of the whole ones: {counts}")
    say(f"{run.honest} honest requests, {len(run.wrong)} answered wrongly")
    say(f"{run.ended} processes ended; memory grew by {run.growth:.1%}: {run.grown_bytes}")
    say("kept" if not run.missed() else "missed: " + "; ".join(run.missed()))
    say(json.dumps({"machine": machine(), "fuzz": asdict(run)}))
    return 1 if run.missed() else 0


def fuzz(server: Server, requests: int, chosen: int) -> Fuzz:
    """Send so many requests."""
    drawn = round((1 - CONTRACT_SHARE) * requests)
    first = round(WARM_UP_SHARE * drawn), round(WARM_UP_SHARE * (requests - drawn))
    statuses: Counter[int] = Counter()
    broken: list[str] = []
    with _honest_client(server.url) as (answers, wrong):
        _send(server, first[0], chosen, statuses, broken)
        contract = _try_contract(server.url, first[1], chosen)
        before = {process.pid for process in processes(server.port)}
        memory = _memory(server)
        with _slow_clients(server.port):
            _send(server, drawn - first[0], chosen + 1, statuses, broken)
            contract += _try_contract(server.url, requests - drawn - first[1], chosen + 1)
        memory_after = _memory(server)
        after = {process.pid for process in processes(server.port)}
    growth = sum(memory_after.values()) / sum(memory.values()) - 1
    grown = {name: used - memory[name] for name, used in memory_after.items() if name in memory}
    return Fuzz(
        requests, dict(statuses), broken, answers[0], wrong, len(before - after), growth,
        {name: size for name, size in grown.items() if size >= 2**20}, contract,
    )  # fmt: skip


def _send(
    server: Server, count: int, chosen: int, statuses: Counter[int], broken: list[str]
) -> None:
    @seed(chosen)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(attacks())
    def attack(drawn: Attack) -> None:
        status, media_type = _answer(server.port, drawn)
        if drawn.whole:
            statuses[status] += 1
        if why := _broken(drawn, status, media_type):
            broken.append(f"{why} to {drawn.sent[:2000]!r} ({len(drawn.sent)} bytes)")

    attack()


def _broken(drawn: Attack, status: int, media_type: str) -> str:
    """How an answer breaks the contract; empty if it does not."""
    if status >= _ERROR and status not in _DELIBERATE:
        return f"status {status}"
    if drawn.whole and not status:
        return "no answer"
    if drawn.whole and status >= 400 and media_type != "application/problem+json":
        return f"a {status} that is {media_type or 'nothing'}"
    return ""


def _answer(port: int, drawn: Attack) -> tuple[int, str]:
    """Status and media type of the answer; 0 when there is none."""
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWERED_WITHIN_S) as connection:
        try:
            connection.sendall(drawn.sent)
            if drawn.then == "hang up":
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return 0, ""
            if drawn.then == "half-close":
                connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as file:
                words = file.readline().split()
                headers = {}
                while (line := file.readline().strip()) and len(words) > 1:
                    name, _, value = line.partition(b":")
                    headers[name.lower()] = value.strip().decode("latin-1")
            return (int(words[1]) if len(words) > 1 else 0), headers.get(b"content-type", "")
        except (ConnectionError, TimeoutError):
            return 0, ""


@contextmanager
def _honest_client(url: str) -> Iterator[tuple[list[int], list[str]]]:
    """Asks for photos again and again; counts answers, and notes those that change."""
    photos, answers, wrong, over = small_photos(8), [0], [], threading.Event()
    address = url + CLASSIFY.decode()
    with httpx.Client(timeout=_ANSWERED_WITHIN_S, trust_env=False) as client:
        expected = [client.post(address, content=photo).json()["labels"] for photo in photos]

        def ask() -> None:
            while not over.wait(0.01):
                for photo, labels in zip(photos, expected, strict=True):
                    response = client.post(address, content=photo)
                    answers[0] += 1
                    if response.status_code != httpx.codes.OK or not _alike(
                        response.json()["labels"], labels
                    ):
                        wrong.append(f"{response.status_code} {response.text}")

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield answers, wrong
        finally:
            over.set()
            thread.join()


def _alike(labels: dict[str, dict[str, str]], expected: dict[str, dict[str, str]]) -> bool:
    return all(labels[head]["label"] == expected[head]["label"] for head in expected)


@contextmanager
def _slow_clients(port: int) -> Iterator[None]:
    """Clients that send a byte a second, of the head of a request or of its body."""
    over = threading.Event()
    head = b"POST /v1/classify HTTP/1.1\r\nHost: mlc\r\nContent-Length: 1000\r\n\r\n"

    def trickle() -> None:
        connections: list[tuple[socket.socket, int]] = []
        at = 0
        while not over.wait(1.0):
            while len(connections) < _SLOW_CLIENTS:
                connection = socket.create_connection(("127.0.0.1", port), timeout=5)
                connections.append((connection, at))
            for each in list(connections):
                connection, began = each
                try:
                    connection.send(head[at - began : at - began + 1] or b"x")
                except OSError:  # it was cut off
                    connection.close()
                    connections.remove(each)
            at += 1
        for connection, _ in connections:
            connection.close()

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _try_contract(url: str, count: int, chosen: int) -> str:
    """Have schemathesis try so many requests, about; what it found."""
    config = Path("tests/e2e/schemathesis.toml")
    operations = sum(
        len(methods) for methods in httpx.get(f"{url}/openapi.json").json()["paths"].values()
    )
    done = subprocess.run(
        [Path(sys.executable).with_name("schemathesis"), "--config-file", config, "run",
         f"{url}/openapi.json", "--seed", str(chosen),
         "--max-examples", str(max(1, count // operations))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stdout[-3000:]


def _memory(server: Server) -> dict[str, int]:
    """Bytes that each process uses, once what came before has left."""
    time.sleep(2.0)
    return server.memory_bytes()


if __name__ == "__main__":
    sys.exit(main())

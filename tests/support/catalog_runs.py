"""`mlc catalog` as users run it, what it writes, and a server of photos."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

from services import PROJECT, environment


def write_table(file: Path, rows: Iterable[tuple[object, str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([["id", "path"], *rows])
    return file


class Run:
    """`mlc catalog` in a process group of its own."""

    def __init__(self, source: Path, out: Path, *options: str, **env: str) -> None:
        self.out = out
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlc_core", "catalog", source, out, *options],
            cwd=PROJECT, env=environment(**env), start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def parts(self) -> int:
        """The parts that are complete so far."""
        return sum(each.name.isdecimal() for each in (self.out / "parts").glob("*"))

    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def wait(self) -> int:
        """The exit code; `output` and `errors` are set then."""
        self.output, self.errors = self._process.communicate(timeout=120)
        return self._process.returncode


def rows_of(out: Path) -> list[Any]:
    files = sorted((out / "labels").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def failures_of(out: Path) -> list[Any]:
    return [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]


@contextmanager
def server(
    answer: Callable[[str, int], tuple[int, bytes]],
) -> Iterator[tuple[str, Counter[str]]]:
    """A server whose answers are (status, body) by path and how often it was asked.

    The body of a redirect is where it leads.
    """
    asked: Counter[str] = Counter()
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with turn:
                asked[self.path] += 1
                status, body = answer(self.path, asked[self.path])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After", "60")
            if status in (301, 302):
                self.send_header("Location", body.decode())
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}", asked
        finally:
            httpd.shutdown()


@contextmanager
def dripping(start: bytes) -> Iterator[str]:
    """A server that sends this at once, and then a byte every 10 ms for as long as one listens."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1 << 16)
            self.request.sendall(start)
            with suppress(OSError):
                while not ended.wait(0.01):
                    self.request.sendall(b"a")

    ended = threading.Event()
    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as tcp:
        threading.Thread(target=tcp.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{tcp.server_address[1]}"
        finally:
            ended.set()
            tcp.shutdown()

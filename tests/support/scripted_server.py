"""A server whose answers are written down beforehand, for tests of clients that retry."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

HANG_UP = 0


class Script(NamedTuple):
    url: str
    bodies: list[bytes]


@contextmanager
def scripted(statuses: Sequence[int], retry_after: str = "0") -> Iterator[Script]:
    """Answers POSTs with these statuses in turn, the last of them for ever.

    Args:
        statuses: HANG_UP for no answer.
    """
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = statuses[min(len(bodies), len(statuses) - 1)]
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            if status == HANG_UP:
                self.close_connection = True
                return
            text = b'{"detail": "as written"}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Retry-After", retry_after)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Script(f"http://127.0.0.1:{server.server_port}", bodies)
        finally:
            server.shutdown()
            thread.join()

"""`mlc-drain`: has clients leave this node before it ends. A pod runs it as its preStop hook.

HAProxy adds `Connection: close` to each response from now on, so a client that keeps connections
opens the next one elsewhere. No idle connection is closed: a request may be on its way on it.
"""

from __future__ import annotations

import argparse
import re
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from deployments.http.haproxy import CLOSING

COMMAND = "mlc-drain"
FOLDER = Path("/tmp/haproxy-serve")  # noqa: S108  (Serve's default; each of its nodes has one there)
_LOOK_EVERY_S = 0.5
_ANSWER_WITHIN_S = 5
_CLOSE = b"experimental-mode on; set var proc.closing int(1)\n"


def main(arguments: list[str] | None = None) -> None:
    """Return when no client holds a connection to HAProxy any more, or after the longest time."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument(
        "--at-least-s", type=float, default=10, help="until load balancers know that this node ends"
    )
    parser.add_argument("--at-most-s", type=float, default=40)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="of the HAProxies that end; Serve's by default"
    )
    options = parser.parse_args(arguments)
    began = time.monotonic()
    configs = running_configs(options.folder)
    for config in configs:
        (config.parent / CLOSING).touch()  # for each HAProxy that Serve starts from now on
    while True:
        for config in configs:
            _tell(config)
        left, took_s = connections(configs), time.monotonic() - began
        has_left = not left and (took_s >= options.at_least_s or not configs)
        if has_left or took_s >= options.at_most_s:
            break
        time.sleep(_LOOK_EVERY_S)
    sys.stdout.write(f"{left} connections left after {took_s:.0f} s\n")


def running_configs(folder: Path) -> set[Path]:
    """The configurations in a folder that HAProxies run with and `mlc-haproxy` adapted."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words and Path(words[0]).name == "haproxy" and "-f" in words:
            config = Path(words[words.index("-f") + 1])
            if folder not in config.parents:
                continue
            with suppress(FileNotFoundError):  # of a process that has ended
                if "proc.closing" in config.read_text(encoding="utf-8"):
                    found.add(config)
    return found


def connections(configs: set[Path]) -> int:
    """How many connections clients hold to these HAProxies, old processes of a reload included."""
    bind = r"^frontend http_frontend\n +bind \S*:(\d+)$"
    ports = {int(port) for config in configs for port in _found(bind, config)}
    return sum(
        each.status == psutil.CONN_ESTABLISHED and getattr(each.laddr, "port", None) in ports
        for each in psutil.net_connections("tcp")
    )


def _tell(config: Path) -> None:
    """Have the HAProxy that runs now close connections with its responses."""
    (path,) = _found(r"^ +stats socket (\S+)", config)
    # Without an answer a reload is under way, and the next HAProxy has seen the file.
    with suppress(OSError), socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(_ANSWER_WITHIN_S)
        admin.connect(path)
        admin.sendall(_CLOSE)
        admin.recv(1024)


def _found(pattern: str, config: Path) -> list[str]:
    return re.findall(pattern, config.read_text(encoding="utf-8"), re.MULTILINE)

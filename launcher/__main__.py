"""`python -m launcher start | stop`: what `make serve` and `make stop` run."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from deployments.settings import PROJECT
from launcher.driver import DEFAULT_PORT, StartError, say, start, stop
from launcher.environment import service_environment
from launcher.processes import RUN, run_directory


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m launcher", description=__doc__)
    parser.add_argument("command", choices=("start", "stop"))
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=_port, default=DEFAULT_PORT, help="1024 to 65535")
    parser.add_argument(
        "--config", type=Path, default=PROJECT / "serve_config.yaml", help="a Serve config file"
    )
    options = parser.parse_args()
    try:
        if options.command == "stop":
            stop(options.port)
        elif os.environ.get(RUN) != run_directory(options.port):
            # Ray reads its settings when it is imported, so start this process anew with them.
            command = [sys.executable, "-m", "launcher", *sys.argv[1:]]
            os.execve(sys.executable, command, service_environment(options.port))  # noqa: S606
        else:
            start(options.host, options.port, options.config)
    except StartError as error:
        say(f"error: {error}")
        return 1
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; choose one from 1024 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())

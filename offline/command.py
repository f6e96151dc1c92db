"""The command `mlc catalog`: its options, and what it prints. Ray starts when a run needs it."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path

from mlc_core.arguments import (
    ALL_FAILED,
    OK,
    SOME_FAILED,
    model_option,
    number,
    served_precision_option,
    source_argument,
    whole,
)
from mlc_core.errors import MlcError

SUMMARY = "label all photos of a catalogue, into files; a run that was killed goes on"


def add_options(command: argparse.ArgumentParser) -> None:
    source_argument(command, "its cells may be URLs")
    command.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        help="directory for the labels; name that of a run that was killed, and it goes on",
    )
    command.add_argument(
        "--format", choices=("jsonl", "parquet"), default="jsonl", help="default: %(default)s"
    )
    command.add_argument("--embeddings", action="store_true", help="add each photo's embedding")
    command.add_argument(
        "--min-precision",
        type=number(0, 1),
        default=0.0,
        metavar="X",
        help="leave a label null unless labels of its confidence are right so often, as 0.95",
    )
    model_option(command)
    served_precision_option(command)
    command.add_argument(
        "--workers", type=whole(1), metavar="N", help="processes, default: one for each core"
    )
    command.add_argument(
        "--address",
        help="of a Ray cluster that does the work, as auto on one of its nodes; its nodes read "
        "SOURCE and write OUT. Default: this machine alone",
    )


def run(options: argparse.Namespace) -> int:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}  # Ray reads these when it is imported
    os.environ.setdefault("RAY_worker_niceness", "0")  # as nice as this command is
    if options.address is None:
        # Ray 2.60 always listens on every interface. It refuses callers without this token.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        from offline.running import label_catalog  # noqa: PLC0415  (two seconds)
    except ImportError as missing:
        raise MlcError(
            f"{missing}; mlc catalog needs more packages: pip install -e '.[catalog]'"
        ) from missing
    done = label_catalog(options, _report)
    print(
        f"{options.out}: {done.labelled} photos labelled, {done.failed} failed"
        + (", see failed.jsonl" if done.failed else "")
    )
    if not done.failed:
        return OK
    return SOME_FAILED if done.labelled else ALL_FAILED


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

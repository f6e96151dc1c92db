"""`make peers`: this service beside the same model behind other servers.

Each server runs alone, with the same photos, model, engine and engine threads. Rounds are
interleaved: machines drift, but ratios within a run hold. It does not search for the best settings
of a peer: bench/peers has one configuration of each. It ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench import say
from bench.load import ClosedLoop
from bench.peers.environment import make_environment, pinned
from bench.peers.errors import PeerError
from bench.peers.server import NAMES, Labels, Peer, labels
from bench.peers.settings import PeerSettings
from bench.servers import Server, machine
from deployments.serve_config import ServeConfig
from deployments.settings import PROJECT
from launcher.processes import free_ports
from samples.photos import large_photos, small_photos

OURS = "this service"
PRECISIONS = ("int8", "float32")
_WARM_UP_CONNECTIONS, _WARM_UP_S = 32, 3.0

_PORTS = free_ports()


class Row(NamedTuple):
    precision: str
    server: str
    connections: int


class Measured(NamedTuple):
    """One measurement.

    Attributes:
        core_ms: CPU time of all processes of the server, per photo.
        idle: share of the machine's CPU time that was idle.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    core_ms: float
    idle: float
    failures: int


Figures = dict[Row, list[Measured]]  # a measurement for each round


def main() -> int:
    args = _arguments()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    try:
        load = ClosedLoop(args.photos)  # fails at once without wrk
        python = make_environment(PROJECT / ".peers", say)
        figures = compare(args, load, python)
    except (PeerError, FileNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    ratios = {row: _ratios(figures, row) for row in figures if row.server != OURS}
    table = rows_table(figures, ratios)
    say(table.rstrip())
    if args.out:
        (args.out / "peers.md").write_text(table, encoding="utf-8")
    versions = {name: pinned()[name] for name in args.peers}
    line = {
        "machine": machine() | versions, "rounds": args.rounds, "decoder": args.decoder,
        "mosec_decoders": args.decoders, "rows": _rows(figures, ratios),
    }  # fmt: skip
    sys.stdout.write(json.dumps(line) + "\n")
    return 0


def compare(args: argparse.Namespace, load: ClosedLoop, python: Path) -> Figures:
    """Measure every server in every precision, round by round.

    Raises:
        PeerError: a peer does not start, or names other labels than this service.
    """
    figures: Figures = defaultdict(list)
    named: dict[str, Labels] = {}  # precision -> this service's labels of the first photo
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, args.rounds + 1):
            order = (OURS, *args.peers)[:: 1 if number % 2 else -1]  # no server is always first
            for precision in args.precision:
                config, model = _config(Path(folder), precision)
                settings = PeerSettings(model, precision, args.decoder, args.decoders)
                for name in order:
                    say(f"round {number} of {args.rounds}: {name}, {precision}")
                    with (
                        Server(config)
                        if name == OURS
                        else Peer(name, python, PROJECT, next(_PORTS), settings, args.photos[0])
                    ) as server:
                        found = _labels(name, server, args.photos[0])
                        _check(name, precision, found, named.setdefault(precision, found))
                        load(server.url, _WARM_UP_CONNECTIONS, _WARM_UP_S)
                        for connections in args.connections:
                            row = Row(precision, name, connections)
                            figures[row].append(_measure(row, server, load, args.seconds))
    return figures


def rows_table(figures: Figures, ratios: dict[Row, list[float]]) -> str:
    """Markdown, one row for each precision, number of connections and server."""
    lines = [
        ["precision", "connections", "server", "photos/s (min–max)", "p50 ms", "p99 ms",
         "core-ms per photo", "cores idle", "failures", f"ratio of {OURS} to it (min–max)"],
    ]  # fmt: skip
    for row in sorted(figures, key=lambda row: (PRECISIONS.index(row.precision), row.connections)):
        of = figures[row]
        lines.append([
            row.precision, str(row.connections), row.server,
            _spread([each.rate for each in of], ".0f"),
            f"{_median(of, 'p50_ms'):.1f}", f"{_median(of, 'p99_ms'):.1f}",
            f"{_median(of, 'core_ms'):.3f}", f"{_median(of, 'idle'):.0%}",
            str(sum(each.failures for each in of)),
            _spread(ratios[row], ".2f") if row in ratios else "",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(map(str.ljust, line, widths))} |\n" for line in lines)


def _measure(row: Row, server: Server | Peer, load: ClosedLoop, seconds: float) -> Measured:
    before, machine_before = server.cpu_s(), psutil.cpu_times()
    result = load(server.url, row.connections, seconds)
    after, machine_after = server.cpu_s(), psutil.cpu_times()
    if not result.answers:
        raise PeerError(f"{row.server} answered no photo at {row.connections} connections")
    spent_s = sum(cpu_s - before.get(process, 0.0) for process, cpu_s in after.items())
    idle_s = machine_after.idle - machine_before.idle
    return Measured(
        rate=result.rate,
        p50_ms=1e3 * result.p50_s,
        p99_ms=1e3 * result.p99_s,
        core_ms=1e3 * spent_s / result.answers,
        idle=idle_s / (sum(machine_after) - sum(machine_before)),
        failures=result.failures,
    )


def _labels(name: str, server: Server | Peer, photo: bytes) -> Labels:
    try:
        return labels(server.url, photo)
    except OSError as error:
        raise PeerError(f"{name} does not classify the first photo: {error}") from error


def _check(name: str, precision: str, found: Labels, ours: Labels) -> None:
    if found != ours:
        differing = "; ".join(
            f"{head}: {found.get(head)!r}, this service {label!r}"
            for head, label in ours.items()
            if found.get(head) != label
        )
        raise PeerError(
            f"{name} in {precision} names other labels for the first photo ({differing}): "
            "they do not serve the same model"
        )


def _config(folder: Path, precision: str) -> tuple[Path, Path]:
    """A copy of serve_config.yaml with that precision, and the directory of its model."""
    config = ServeConfig.read(PROJECT / "serve_config.yaml").with_user_config(precision=precision)
    (classifier,) = config.classifiers()
    model = PROJECT / classifier["user_config"]["model"]
    return config.write(folder / f"{precision}.yaml"), model


def _ratios(figures: Figures, row: Row) -> list[float]:
    """Photos/s of this service divided by those of a peer, round by round."""
    ours = figures[row._replace(server=OURS)]
    return [a.rate / b.rate for a, b in zip(ours, figures[row], strict=True)]


def _rows(figures: Figures, ratios: dict[Row, list[float]]) -> list[dict[str, Any]]:
    """The rows as JSON: each figure is a list with a value for each round."""
    return [
        row._asdict()
        | {name: [round(getattr(each, name), 4) for each in of] for name in Measured._fields}
        | ({"ratio": [round(ratio, 4) for ratio in ratios[row]]} if row in ratios else {})
        for row, of in figures.items()
    ]


def _median(of: Sequence[Measured], name: str) -> float:
    return float(statistics.median(getattr(each, name) for each in of))


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peer_comparison", description=__doc__)
    parser.add_argument("--peers", type=_several(NAMES), default=",".join(NAMES))
    parser.add_argument("--precision", type=_several(PRECISIONS), default=",".join(PRECISIONS))
    parser.add_argument("--connections", type=_numbers, default="1,32,64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument(
        "--photos", type=_photos, default="small", help="small or large (drawn), or a folder"
    )
    parser.add_argument(
        "--decoder", choices=("simplejpeg", "pillow"), default="simplejpeg", help="of the peers"
    )
    parser.add_argument("--decoders", type=int, default=1, help="decoding workers of mosec")
    parser.add_argument("--out", type=Path, help="folder for peers.md, the table")
    return parser.parse_args()


def _several(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """A parser of some of the choices, separated by commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in choices]:
            raise argparse.ArgumentTypeError(
                f"no such choice: {', '.join(unknown)}; there are {', '.join(choices)}"
            )
        return names

    return parse


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not whole numbers with commas") from error


def _photos(text: str) -> list[bytes]:
    if text in ("small", "large"):
        return small_photos(256) if text == "small" else large_photos(48)
    files = sorted(file for file in Path(text).glob("*") if file.is_file())
    if not files:
        raise argparse.ArgumentTypeError(f"{text} is not small, large or a folder with photos")
    return [file.read_bytes() for file in files]


if __name__ == "__main__":
    sys.exit(main())

"""`make catalog-run`: `mlc catalog` beside a loop that decodes and infers, on as many cores.

It draws 50,000 photos of 60×80 pixels: the smaller the photos, the more all else weighs. Rounds are
interleaved. The loop is what a person would write: in each process, read, decode and infer, 256
photos at a time, without labels, files or a way to go on. The time of `mlc catalog` is from the
first photo that a worker reads to the last file that it writes. Ray's start is apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import psutil

from bench import say
from bench.servers import machine
from mlc_core.arguments import MODEL, PROJECT
from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine, served_precision
from mlc_core.photo import decode
from samples.garments import CATEGORIES, COLORS, as_file, draw_garment

_GOAL = 0.85  # of the loop
_BATCH, _FOLDER, _SIZE_PX = 256, 1_000, (60, 80)
_RUN = re.compile(r"([\d,]+) photos in ([\d.]+) s, .*starting took ([\d.]+) s")
_KINDS = list(itertools.product(CATEGORIES, COLORS))


class Round(NamedTuple):
    """Photos per second of each, and what else `mlc catalog` took."""

    loop: float
    run: float
    start_s: float
    driver_bytes: int
    all_bytes: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.catalog_run", description=__doc__)
    parser.add_argument("--photos", type=int, default=50_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    source = PROJECT / "build" / f"drawn-{options.photos}"
    files = _drawn(source, options.photos, cores)
    say("| round | loop, photos/s | mlc catalog | of the loop | start s | driver MiB | all MiB |")
    say("|---|---|---|---|---|---|---|")
    rounds = []
    for number in range(1, options.rounds + 1):
        measured = Round(_loop(files, cores), *_run(source, options.photos))
        rounds.append(measured)
        say(
            f"| {number} | {measured.loop:,.0f} | {measured.run:,.0f} "
            f"| {measured.run / measured.loop:.0%} | {measured.start_s:.1f} "
            f"| {measured.driver_bytes / 2**20:.0f} | {measured.all_bytes / 2**20:.0f} |"
        )
    ratios = [each.run / each.loop for each in rounds]
    ratio = median(ratios)
    reached = "reached" if ratio >= _GOAL else "MISSED"
    say(
        f"mlc catalog has {ratio:.0%} of the loop's throughput ({min(ratios):.0%}–{max(ratios):.0%}"
        f" in {len(rounds)} rounds); {_GOAL:.0%} is {reached}"
    )
    measurements = [each._asdict() for each in rounds]
    say(json.dumps({"machine": machine(), "photos": options.photos, "rounds": measurements}))
    return 0 if ratio >= _GOAL else 1


def _drawn(source: Path, count: int, cores: int) -> list[Path]:
    """The drawn photos, those of the run before if it drew them all."""
    names = [f"{n // _FOLDER:03}/{n:06}.jpg" for n in range(count)]
    if not source.exists():
        say(f"drawing {count:,} photos in {source} …")
        new = source.with_name(f"{source.name}.new")
        files = [new / name for name in names]
        for folder in {file.parent for file in files}:
            folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
            list(pool.map(_draw, files, range(count), chunksize=_FOLDER))
        new.rename(source)
    return [source / name for name in names]


def _draw(file: Path, number: int) -> None:
    garment = draw_garment(*_KINDS[number % len(_KINDS)], _SIZE_PX, number)
    file.write_bytes(as_file(garment, quality=85))


def _loop(files: Sequence[Path], cores: int) -> float:
    """Photos per second of a loop in each of some processes."""
    context = get_context("spawn")
    start = context.Manager().Barrier(cores)
    with ProcessPoolExecutor(cores, context) as pool:
        running = [pool.submit(_decode_and_infer, files[n::cores], start) for n in range(cores)]
        spans = [each.result() for each in running]
    return len(files) / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def _decode_and_infer(files: Sequence[Path], start: threading.Barrier) -> tuple[float, float]:
    artifact = load_artifact(MODEL)
    engine = load_engine("onnxruntime", artifact, precision=served_precision(artifact))
    start.wait()
    began = time.time()
    for at in range(0, len(files), _BATCH):
        batch = files[at : at + _BATCH]
        images = [decode(file.read_bytes(), artifact.spec.image) for file in batch]
        engine.infer(np.stack(images))
    return began, time.time()


def _run(source: Path, count: int) -> tuple[float, float, int, int]:
    """Photos per second, seconds of the start, the most memory of the driver and of all."""
    with TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "mlc_core", "catalog", str(source), f"{directory}/out"]
        running = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        most = {"driver": 0, "all": 0}
        watching = threading.Thread(target=_watch, args=(running, most))
        watching.start()
        _, errors = running.communicate()
        watching.join()
    found = _RUN.search(errors)
    if running.returncode or not found:
        raise SystemExit(f"mlc catalog failed:\n{errors}")
    photos, seconds, start_s = (float(each.replace(",", "")) for each in found.groups())
    if photos != count:
        raise SystemExit(f"mlc catalog did {photos:.0f} photos of {count}")
    return photos / seconds, start_s, most["driver"], most["all"]


def _watch(running: subprocess.Popen[str], most: dict[str, int]) -> None:
    driver = psutil.Process(running.pid)
    while running.poll() is None:
        try:
            processes = (driver, *driver.children(recursive=True))
            used = [process.memory_full_info().pss for process in processes]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # one has just ended
        most["driver"] = max(most["driver"], used[0])
        most["all"] = max(most["all"], sum(used))
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())

"""Runs a catalogue through Ray Data: on this machine, or on a cluster.

A block of the data set is a part: a few hundred rows of id and name. A worker makes a part's files
and returns its counts alone, so no photo, image or label passes through Ray.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import psutil
import pyarrow as pa
import ray
import ray.data

from mlc_core.artifact import SUMS, load_artifact
from mlc_core.engines.loading import served_precision
from mlc_core.errors import MlcError
from mlc_core.labels import Choice, Labeller
from mlc_core.sources.files import Progress as Report
from offline.labelling import Labelling, Part, Work
from offline.manifest import read_manifest
from offline.output import Counts, Output
from offline.progress import Progress

_OBJECT_STORE_BYTES = 2**28
_PARTS_AT_ONCE = 2  # in a worker: between two parts, a worker with one waits for 20 ms
_PREFIX = "mlc-run-"  # of Ray's directories; short, as the names of sockets must be


class RunError(MlcError):
    """A run can't start, or stopped before its end."""


def label_catalog(options: argparse.Namespace, report: Report) -> Counts:
    """Label the photos of a source. A run that was killed goes on.

    Args:
        options: of the command line; see `offline.command`.

    Raises:
        MlcError: its text says what to do.
    """
    if options.out.resolve().is_relative_to(options.source.resolve()):
        raise RunError(
            f"{options.out} is inside {options.source}, so its files would be taken for photos and "
            "tables of the source; name a directory elsewhere"
        )
    artifact = load_artifact(options.model)
    precision = options.precision or served_precision(artifact)
    choice = Choice(precision=options.min_precision, embedding=options.embeddings)
    if refusal := Labeller(artifact.spec).refusal(choice):
        raise RunError(str(refusal))
    manifest = read_manifest(options.source, report)
    parts = manifest.parts()
    model = {each.name: each.read_bytes() for each in artifact.path.iterdir() if each.is_file()}
    embedding = artifact.spec.embedding if options.embeddings else None
    run = {
        "model": artifact.spec.name,
        "model_version": artifact.spec.version,
        "model_digest": hashlib.sha256(model[SUMS]).hexdigest(),
        "embedding_digest": embedding and embedding.digest,
        "precision": precision,
        "min_precision": options.min_precision,
        "format": options.format,
        "photos": len(manifest.photos) + len(manifest.rejected),
        "input_digest": manifest.digest,
        "parts": len(parts),
    }
    output = Output(options.out.resolve(), options.format, run)
    with output.claimed():
        if counts := output.finished():
            report(f"{options.out} is complete already; nothing to do")
            return counts
        sizes = [len(part) for part in parts]
        present = output.present(sizes)
        missing = [part for number, part in enumerate(parts) if number not in present]
        if present:
            done = len(manifest.photos) - sum(map(len, missing))
            report(f"resuming: {done:,} of {len(manifest.photos):,} photos were done before")
        if missing:
            work = Work(manifest.root, output, options.format, precision, choice, model)
            total = len(manifest.photos)
            report(_label_missing(missing, total, work, options.address, options.workers))
        return output.finish(sizes, manifest.rejected)


def _label_missing(
    parts: Sequence[pa.Table], total: int, work: Work, address: str | None, workers: int | None
) -> str:
    """Label parts, and tell how fast that was.

    Args:
        total: photos of the source.
    """
    photos = sum(map(len, parts))
    started = time.time()
    began, ended = math.inf, 0.0
    with (
        _stderr() as stderr,
        _ray(address, workers) as pool,
        Progress(stderr, total, total - photos) as progress,
    ):
        for part in _labelled(parts, work._replace(model=ray.put(work.model)), pool):
            progress.add(part.photos, part.failed, part.ended - part.began)
            began, ended = min(began, part.began), max(ended, part.ended)
    took_s = max(ended - began, 1e-3)
    return (
        f"{photos:,} photos in {took_s:.1f} s, {photos / took_s:,.0f} photos/s; "
        f"starting took {began - started:.1f} s"
    )


def _labelled(parts: Sequence[pa.Table], work: Work, workers: tuple[int, int]) -> Iterator[Part]:
    """Label parts, in any order.

    Args:
        workers: the fewest and the most.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    least, most = workers
    photos = ray.data.from_blocks(list(parts))
    done = photos.map_batches(
        Labelling,
        fn_constructor_args=(work,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=1,
        max_concurrency=_PARTS_AT_ONCE,
    )
    try:
        for row in done.iter_rows():
            yield Part(**row)
    except ray.exceptions.RayError as error:
        raise RunError(f"the run stopped: {_cause(error)}; run it again to go on") from error


def _cause(error: BaseException) -> str:
    """The last line of what happened in a worker."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


@contextmanager
def _stderr() -> Iterator[TextIO]:
    """Yield the standard error, which Ray's native code no longer writes to.

    What it wrote is shown if the run fails.
    """
    with os.fdopen(os.dup(2), "w") as stderr, tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            yield stderr
        except MlcError:
            notes.seek(0)
            stderr.write(notes.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(stderr.fileno(), 2)


@contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[tuple[int, int]]:
    """Connect to a cluster, or start one on this machine, for this run alone.

    Yields:
        The fewest and the most workers.
    """
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if address is not None:
        ray.init(address=address, **quiet)
        try:
            cluster = ray.cluster_resources()  # type: ignore[no-untyped-call]
            most = workers or max(1, int(cluster.get("CPU", 1)))
            yield min(1, most), most
        finally:
            ray.shutdown()
        return
    count = workers or len(os.sched_getaffinity(0))
    _sweep()
    with tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-") as directory:
        ray.init(
            address="local",
            num_cpus=count,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            _temp_dir=directory,
            **quiet,
        )
        try:
            yield count, count
        finally:
            ray.shutdown()


def _sweep() -> None:
    """Remove the directories of Ray that killed runs left."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = directory.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(directory, ignore_errors=True)

"""The directory that a run writes. Each part gets there once, whenever a process is killed.

    OUT/run.json              what decides the rows; a run with another one is refused
    OUT/parts/attempt-00007-* an attempt at part 7 that has not ended, or was killed
    OUT/parts/00007/          its labels and failures, renamed to here when they are complete
    OUT/labels/part-00007.*   the labels, moved to here once all parts are there
    OUT/failed.jsonl          all failures
    OUT/_SUCCESS              the counts, last of all

The name of a part and its photos follow from the source alone. So a part is either there or it is
not, and who wrote it does not matter: of two workers that finish the same part, as when one was
thought dead, the second one's rename fails, because a directory with files in it is not replaced.
A kill loses nothing that was renamed. A loss of power may, so a resumed run counts the rows of each
part; waiting for the disk after each would leave cores without work.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from mlc_core.durable import UNFINISHED, replacing, sync
from mlc_core.errors import MlcError
from offline.rows import Failure, Format, count_rows, failures_as_lines

_RUN, _LOCK, _PARTS, _LABELS = "run.json", "run.lock", "parts", "labels"
_FAILED, _SUCCESS = "failed.jsonl", "_SUCCESS"
_ENOUGH = 2  # attempts that end alike; fewer may be kills of the whole run
_TOO_MANY = 30  # attempts that end with no photo to blame; a photo of another part may end some
_ENDS = "reading or decoding it ends the process, as a lack of memory does"
_MODE = 0o666  # of files, less what the umask takes

_ONE_IS_NAMED = Lock()  # of the photos that threads read or decode; another one is not to blame

Decoded = TypeVar("Decoded")


class OutputError(MlcError):
    """A run can't write to its directory, or another run's rows are there."""


class Counts(NamedTuple):
    """What became of the photos."""

    labelled: int
    failed: int


class Attempt:
    """An attempt at a part. It finds the photo that ends each process that reads or decodes it.

    Each attempt leaves a file if its process ends. From the third one on, that file names the photo
    that is being read or decoded. One that two attempts have ended with is skipped. If a part's
    processes end again and again with no photo to blame, all of it is skipped.

    Attributes:
        skipped: why no process shall read or decode a photo, by its place in the part.
        is_careful: whether photos have to be read one after the other, in `guard`.
    """

    def __init__(self, directory: Path, number: int, size: int) -> None:
        before = list(directory.glob(f"attempt-{number:05}-*"))
        ended_with = Counter(file.read_text().strip() for file in before)
        unnamed = ended_with.pop("", 0)
        if unnamed >= _TOO_MANY:
            self.skipped = dict.fromkeys(range(size), f"{unnamed} processes ended in its part")
        else:
            ends = (int(at) for at, count in ended_with.items() if count >= _ENOUGH)
            self.skipped = dict.fromkeys(ends, _ENDS)
        self.is_careful = len(before) >= _ENOUGH
        self._file = directory / f"attempt-{number:05}-{uuid.uuid4().hex}"
        self._mark = self._file.open("wb", buffering=0)

    def guard(self, at: int, decode: Callable[[], Decoded]) -> Decoded:
        """Read and decode a photo of the part; if that ends the process, the photo is known."""
        if not self.is_careful:
            return decode()
        with _ONE_IS_NAMED:
            os.pwrite(self._mark.fileno(), f"{at:09}".encode(), 0)
            decoded = decode()
            os.pwrite(self._mark.fileno(), b" " * 9, 0)
        return decoded

    def complete(self) -> None:
        self.abandon()
        self._file.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Leave the file, as the end of the process does."""
        self._mark.close()


class Output:
    """The directory of a run.

    Args:
        run: what decides the rows: values of JSON by name.
    """

    def __init__(self, path: Path, file_format: Format, run: Mapping[str, Any]) -> None:
        self._path, self._suffix, self._run = path, file_format, dict(run)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Create the directory, or go on in it, while no other process does.

        Raises:
            OutputError: it holds something else, or another run.
        """
        self._path.mkdir(parents=True, exist_ok=True)
        names = {each.name for each in self._path.iterdir()}
        strange = sorted(name for name in names - {_LOCK} if not name.endswith(UNFINISHED))
        begun = self._path / _RUN
        if strange and not begun.exists():
            raise OutputError(
                f"{self._path} has other files, as {strange[0]}; name a directory that is new"
            )
        with (self._path / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(
                    f"another run writes to {self._path}; wait for its end, or stop it"
                ) from error
            for left in self._path.glob(f"*{UNFINISHED}"):
                left.unlink()
            if begun.exists():
                self._compare(_read(begun))
            else:
                _write(begun, _as_json(self._run))
            yield

    def finished(self) -> Counts | None:
        """The counts of a run that is complete; None if it is not."""
        success = self._path / _SUCCESS
        if not success.exists():
            return None
        shutil.rmtree(self._path / _PARTS, ignore_errors=True)
        found = _read(success)
        return Counts(found["labelled"], found["failed"])

    def present(self, sizes: Sequence[int]) -> set[int]:
        """The parts that are complete. What is left of others is removed.

        Args:
            sizes: the photos of each part.
        """
        (self._path / _PARTS).mkdir(exist_ok=True)
        numbers = set()
        for each in (self._path / _PARTS).iterdir():
            if each.name.isdecimal() and self._is_whole(int(each.name), sizes):
                numbers.add(int(each.name))
            elif each.is_dir():
                shutil.rmtree(each)
        return numbers

    def _is_whole(self, number: int, sizes: Sequence[int]) -> bool:
        """Whether all rows of a part are there; after a loss of power, some may not be."""
        written, stays = self._labels(number)
        try:
            rows = count_rows(written if written.exists() else stays)
            return rows + count_rows(self._part(number) / _FAILED) == sizes[number]
        except (OSError, ValueError):  # the latter from pyarrow
            return False

    def attempt(self, number: int, size: int) -> Attempt:
        """Begin a part of some photos, and learn which ended the processes that tried before."""
        return Attempt(self._path / _PARTS, number, size)

    def commit(self, number: int, labels: bytes, failures: Sequence[Failure]) -> None:
        """Write a part, all of it or nothing. Does nothing if it is there."""
        staged = self._path / _PARTS / f"new-{number:05}-{uuid.uuid4().hex}"
        staged.mkdir()
        (staged / f"{_LABELS}.{self._suffix}").write_bytes(labels)
        (staged / _FAILED).write_bytes(failures_as_lines(failures))
        try:
            staged.rename(self._part(number))
        except OSError:
            if not self._part(number).exists():
                raise
            shutil.rmtree(staged)

    def finish(self, sizes: Sequence[int], rejected: Iterable[Failure]) -> Counts:
        """Bring all parts, which are complete, to where they stay.

        Args:
            sizes: the photos of each part.
            rejected: rows of the source that no part has.

        Raises:
            OutputError: a part does not have the rows that it must have.
        """
        (self._path / _LABELS).mkdir(exist_ok=True)
        labelled = failed = 0
        with replacing(self._path / _FAILED, _MODE) as report:
            for failure in rejected:
                report.write(failures_as_lines([failure]))
                failed += 1
            for number, size in enumerate(sizes):
                failures = (self._part(number) / _FAILED).read_bytes()
                rows = count_rows(self._stays(number))
                if rows + failures.count(b"\n") != size:
                    raise OutputError(
                        f"part {number} of {self._path} has {rows} rows, which are not all of its "
                        f"{size} photos; a file was changed: run it again to label them anew"
                    )
                report.write(failures)
                labelled += rows
                failed += size - rows
        sync(self._path / _LABELS)
        counts = Counts(labelled, failed)
        _write(self._path / _SUCCESS, _as_json(counts._asdict() | self._run))
        shutil.rmtree(self._path / _PARTS, ignore_errors=True)
        return counts

    def _part(self, number: int) -> Path:
        return self._path / _PARTS / f"{number:05}"

    def _labels(self, number: int) -> tuple[Path, Path]:
        """Where the labels of a part are written, and where they stay."""
        return (
            self._part(number) / f"{_LABELS}.{self._suffix}",
            self._path / _LABELS / f"part-{number:05}.{self._suffix}",
        )

    def _stays(self, number: int) -> Path:
        """The labels of a part where they stay; a killed run may have moved them already."""
        written, stays = self._labels(number)
        if written.exists():
            written.rename(stays)
        sync(stays)
        return stays

    def _compare(self, begun: Mapping[str, Any]) -> None:
        changed = [key for key in {**begun, **self._run} if begun.get(key) != self._run.get(key)]
        if changed:
            what = ", ".join(
                f"{key} is {self._run.get(key)}, was {begun.get(key)}" for key in changed
            )
            raise OutputError(
                f"{self._path} belongs to another run ({what}); name another directory, or the "
                "source, model and options of that run"
            )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        fields = json.loads(file.read_bytes())
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise OutputError(f"{file} is damaged; name another directory, or remove this one")
    return fields


def _as_json(fields: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(fields, indent=1)}\n".encode()


def _write(file: Path, contents: bytes) -> None:
    with replacing(file, _MODE) as target:
        target.write(contents)

"""Feedback: photos with the labels that a person says are right, in a directory that only grows.

A directory for each day has the photos of the day under `photos`, named by their SHA-256, and a
file of JSON Lines from each process that writes. A day that is over can be copied, or removed.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from mlc_core.durable import append, replacing, sync
from mlc_core.errors import DataSetError
from mlc_core.sources.files import TABLE, Read, Unreadable
from mlc_core.spec import COLUMNS

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PHOTOS = "photos"
_FIELDS = ("at", "by", "photo", "labels", "answered", "model", "request_id", "key")


class Feedback(NamedTuple):
    """What one person says of one photo.

    Attributes:
        at: when it was stored, as an ISO time in UTC.
        by: who says so.
        photo: SHA-256 of the photo, hexadecimal.
        labels: head -> the right label. Heads that the person did not judge are missing.
        answered: head -> the label that the model answers, None for none.
        model: its name and version, joined by "/".
        request_id: of the request that the feedback is about; "" if it came with a photo.
        key: name of the client's key; "" without keys.
    """

    at: str
    by: str
    photo: str
    labels: Mapping[str, str]
    answered: Mapping[str, str | None]
    model: str
    request_id: str = ""
    key: str = ""

    @property
    def corrected(self) -> list[str]:
        """The heads whose answer the person corrects."""
        return [head for head, label in self.labels.items() if self.answered.get(head) != label]


def write_feedback(directory: Path, writer: str, photo: bytes, feedback: Feedback) -> None:
    """Store feedback. When this returns, a crash loses none of it.

    Args:
        writer: names the file that it is appended to; no two processes have the same.

    Raises:
        OSError: it can't be stored.
    """
    day = directory / feedback.at[:10]
    photos = day / _PHOTOS
    directory.mkdir(parents=True, exist_ok=True)
    for folder in (day, photos):
        folder.mkdir(0o700, exist_ok=True)
    file = photos / feedback.photo
    if not file.exists():
        with replacing(file, 0o600) as new:
            new.write(photo)
    for folder in (directory, day, photos):  # what is in them may be new, and of another thread
        sync(folder)
    line = json.dumps(feedback._asdict(), ensure_ascii=False) + "\n"
    append(day / f"{writer}.jsonl", line.encode())


def new_feedback(photo: bytes, **fields: object) -> Feedback:
    """Feedback of now; see Feedback."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Feedback(at=at, photo=sha256(photo).hexdigest(), **fields)  # type: ignore[arg-type]


def read_feedback(directory: Path, report: Callable[[str], None] = print) -> list[Feedback]:
    """All feedback of a directory, from the oldest to the newest.

    Raises:
        DataSetError: there is none.
    """
    found, broken = [], 0
    for file in sorted(each for day in _days(directory) for each in day.glob("*.jsonl")):
        for line in file.read_bytes().splitlines():
            try:
                fields = json.loads(line)
                found.append(Feedback(**{name: fields[name] for name in _FIELDS}))
            except (ValueError, KeyError, TypeError):  # cut off by a crash, and never acknowledged
                broken += 1
    if broken:
        report(f"{directory}: skipped {broken} lines that were cut off")
    if not found:
        raise DataSetError(f"{directory} has no feedback; name the `directory` of the settings")
    return sorted(found, key=lambda each: each.at)


def remove_old_feedback(directory: Path, keep_days: int, today: date) -> list[str]:
    """Remove the days that are older than so many days; returns their names."""
    oldest = (today - timedelta(days=keep_days)).isoformat()
    old = [day for day in _days(directory) if day.name < oldest]
    for day in old:
        shutil.rmtree(day)
    return [day.name for day in old]


def is_feedback(path: Path) -> bool:
    """Whether a path is a directory of feedback."""
    return any((day / _PHOTOS).is_dir() for day in _days(path))


@contextmanager
def opened_feedback(path: Path, report: Callable[[str], None]) -> Iterator[Read]:
    """Yield a function that reads a directory of feedback as files of a data set.

    A photo has the newest label that a person gave to each head.
    """
    labels: dict[str, dict[str, str]] = {}
    for each in read_feedback(path, report):
        labels.setdefault(each.photo, {}).update(each.labels)
    photos = {file.name: file for day in _days(path) for file in (day / _PHOTOS).glob("*")}

    def read(name: str) -> bytes:
        if name == TABLE:
            return _table(labels)
        file = photos.get(name.removeprefix("images/").removesuffix(".jpg"))
        if file is None:
            raise Unreadable("photo is missing", f"{path} has no photo of {name}")
        return file.read_bytes()

    yield read


def corrections(feedback: Sequence[Feedback]) -> Counter[tuple[str, str | None, str]]:
    """How often a label was corrected: (head, what was answered, what is right) -> times."""
    return Counter(
        (head, each.answered.get(head), each.labels[head])
        for each in feedback
        for head in each.corrected
    )


def _table(labels: Mapping[str, Mapping[str, str]]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["id", *COLUMNS.values()])
    for photo, by_head in labels.items():
        table.writerow([photo, *(by_head.get(head, "") for head in COLUMNS)])
    return text.getvalue().encode()


def _days(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        yield from (each for each in directory.iterdir() if _DAY.fullmatch(each.name))

"""Reads a Fashion Product Images data set into memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlc_core.errors import DataSetError, PhotoFault
from mlc_core.feedback import is_feedback, opened_feedback
from mlc_core.photo import decode
from mlc_core.sources.files import TABLE, Progress, Read, Unreadable, opened
from mlc_core.sources.table import Row, Skips, Table
from mlc_core.spec import COLUMNS, HEADS, ImageSize

# A missing label in tables of the data set, of pandas, of Excel and of databases, in lower case.
_UNLABELLED = frozenset(
    ("", "na", "n/a", "nan", "-nan", "none", "null", "<na>", "#n/a", "#n/a n/a", "#na", "\\n")
)
_LISTED = 40  # columns, and characters of each, in an error
_NO_FILE_NAME = re.compile(r"\.\.?|.*[/\\\x00-\x1f].*", re.DOTALL)


@dataclass(frozen=True)
class DataSet:
    """Labelled images. Equal indices of ids, images and labels belong to the same photo.

    Attributes:
        ids: the data set's own ids of the products, str.
        images: uint8, shape (N, height_px, width_px, 3), RGB.
        labels: head -> N labels, str.
        skipped: reason -> number of rows left out for it.
    """

    ids: NDArray[np.str_]
    images: NDArray[np.uint8]
    labels: Mapping[str, NDArray[np.str_]]
    skipped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.ids)

    def classes(self) -> dict[str, tuple[str, ...]]:
        """Every label that occurs, by head, sorted."""
        return {head: tuple(map(str, np.unique(labels))) for head, labels in self.labels.items()}

    def digest(self) -> str:
        """SHA-256 of the sorted ids, one per line."""
        ids = "".join(f"{each}\n" for each in sorted(self.ids.tolist()))
        return hashlib.sha256(ids.encode()).hexdigest()

    def take(self, indices: NDArray[np.intp]) -> DataSet:
        """The part at `indices`, in their order."""
        labels = {head: labels[indices] for head, labels in self.labels.items()}
        return DataSet(self.ids[indices], self.images[indices], labels, self.skipped)

    def join(self, other: DataSet) -> DataSet:
        """These photos, then those of another part, or of feedback."""
        labels = {
            head: np.concatenate([labels, other.labels[head]])
            for head, labels in self.labels.items()
        }
        ids = np.concatenate([self.ids, other.ids])
        images = np.concatenate([self.images, other.images])
        return DataSet(ids, images, labels, self.skipped)


def read_dataset(
    path: Path | str,
    size: ImageSize,
    report: Progress = print,
    heads: Sequence[str] = HEADS,
    *,
    all_heads: bool = True,
) -> DataSet:
    """Read styles.csv and images/<id>.jpg from a directory or a zip file, at any depth in it.

    A directory of feedback is read as such a one.

    It skips rows that lack an id or a label, and rows whose photo is missing or can't be decoded.
    It reports how many rows it skipped for each reason, and keeps these counts.

    Args:
        heads: the heads whose labels are read; the table needs no other columns.
        all_heads: if False, heads whose column is missing or empty are left out.

    Raises:
        DataSetError: there is no such data set, or no usable row in it.
    """
    path = Path(path)
    with opened_feedback(path, report) if is_feedback(path) else opened(path) as read:
        try:
            table = Table(read(TABLE))
        except (Unreadable, ValueError) as error:
            advice = getattr(error, "advice", "restore it")
            raise DataSetError(f"{path}: {TABLE} can't be read ({error}); {advice}") from error
        heads = _labelled_heads(table, heads, path, all_heads=all_heads)
        rows, skips = _labelled_rows(table, heads)
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(lambda row: _image(read, row, size), rows))
    good = [at for at, image in enumerate(images) if not isinstance(image, str)]
    for row, image in zip(rows, images, strict=True):
        if isinstance(image, str):
            skips.add(image, row)
    if not good:
        raise DataSetError(
            f"{path}: no row of {TABLE} can be used ({'; '.join(skips.lines()) or 'it has none'}); "
            f"a row needs an id, a photo images/<id>.jpg, and a label of {', '.join(heads)}"
        )
    for line in skips.lines():
        report(f"skipped {line}")
    report(f"{len(good)} usable photos")
    return DataSet(
        ids=np.array([rows[at].id for at in good]),
        images=np.stack([images[at] for at in good]),
        labels={head: np.array([rows[at].cells[COLUMNS[head]] for at in good]) for head in heads},
        skipped=skips.counts(),
    )


def _labelled_heads(
    table: Table, heads: Sequence[str], path: Path | str, *, all_heads: bool
) -> Sequence[str]:
    """The heads to read.

    Raises:
        DataSetError: the column of the ids or of one of these heads is missing.
    """
    if not all_heads:
        there = [head for head in heads if COLUMNS[head] in table.columns]
        labelled = [head for head in there if any(_label(row, head) for row in table.rows)]
        heads = labelled or there or heads
    wanted = ("id", *(COLUMNS[head] for head in heads))
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise DataSetError(
            f"{path}: {TABLE} lacks the column {', '.join(missing)}, it has "
            f"{_listed(table.columns)}; add it, or choose heads that have a column"
        )
    return heads


def _listed(columns: Sequence[str]) -> str:
    """The names of columns, fit for one line even if the file is no table."""
    if not columns:
        return "none"
    names = [name[:_LISTED] if name[:_LISTED].isprintable() else repr(name[:_LISTED])
             for name in columns[:_LISTED]]  # fmt: skip
    return ", ".join(names) + (", …" if len(columns) > _LISTED else "")


def _labelled_rows(table: Table, heads: Sequence[str]) -> tuple[list[Row], Skips]:
    rows: dict[str, Row] = {}
    skips = Skips()
    wanted = {"id", *(COLUMNS[head] for head in heads)}
    for row in table.rows:
        unlabelled = [head for head in heads if not _label(row, head)]
        if row.fault:
            skips.add(row.fault, row)
        elif row.has_surplus and table.columns[-1] in wanted:
            skips.add("more cells than columns", row)
        elif not row.id:
            skips.add("no id", row)
        elif _NO_FILE_NAME.fullmatch(row.id):
            skips.add("id is no file name", row)
        elif row.id in rows:
            skips.add("id seen before", row)
        elif unlabelled:
            skips.add(f"no {unlabelled[0]}", row)
        else:
            rows[row.id] = row
    return list(rows.values()), skips


def _label(row: Row, head: str) -> str:
    label = row.cells[COLUMNS[head]]
    return "" if label.lower() in _UNLABELLED else label


def _image(read: Read, row: Row, size: ImageSize) -> NDArray[np.uint8] | str:
    """The image of a row, or the reason why there is none."""
    try:
        return decode(read(f"images/{row.id}.jpg"), size)
    except Unreadable as error:
        return error.reason
    except PhotoFault as fault:
        return type(fault).__name__

"""Reads a Fashion Product Images data set into memory."""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlc_core.errors import DataSetError, PhotoFault
from mlc_core.photo import decode
from mlc_core.spec import HEADS, ImageSize

COLUMNS = {
    "color": "baseColour",
    "master_category": "masterCategory",
    "sub_category": "subCategory",
    "category": "articleType",
}
_UNLABELLED = ("", "NA")  # what the data set writes for a missing label

Progress = Callable[[str], None]


@dataclass(frozen=True)
class DataSet:
    """Labelled images; what is at one index belongs together.

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

    def take(self, indices: NDArray[np.intp]) -> DataSet:
        """The part at `indices`, in their order."""
        labels = {head: labels[indices] for head, labels in self.labels.items()}
        return DataSet(self.ids[indices], self.images[indices], labels, self.skipped)


def read_dataset(path: Path | str, size: ImageSize, report: Progress = print) -> DataSet:
    """Read styles.csv and images/<id>.jpg from a directory or a zip file, at any depth in it.

    Rows that lack a label, or whose photo is missing or can't be decoded, are skipped; how many,
    and why, is reported and kept.

    Raises:
        DataSetError: there is no such data set, or no usable row in it.
    """
    with _opened(Path(path)) as read:
        rows, skipped = _labelled_rows(read("styles.csv"), path)

        def decoded(row: dict[str, str]) -> NDArray[np.uint8] | str:
            try:
                return decode(read(f"images/{row['id']}.jpg"), size)
            except KeyError:
                return "no photo"
            except PhotoFault as fault:
                return type(fault).__name__

        with ThreadPoolExecutor() as pool:
            images = list(pool.map(decoded, rows))
    good = [at for at, image in enumerate(images) if not isinstance(image, str)]
    skipped.update(image for image in images if isinstance(image, str))
    if not good:
        raise DataSetError(f"{path}: no row of styles.csv has all labels and a photo")
    for reason, count in sorted(skipped.items()):
        report(f"skipped {count} rows: {reason}")
    return DataSet(
        ids=np.array([rows[at]["id"] for at in good]),
        images=np.stack([images[at] for at in good]),
        labels={
            head: np.array([rows[at][column] for at in good]) for head, column in COLUMNS.items()
        },
        skipped=dict(sorted(skipped.items())),
    )


def _labelled_rows(table: bytes, path: Path | str) -> tuple[list[dict[str, str]], Counter[str]]:
    # A few rows of the original table have an unquoted comma in the name, the last column:
    # DictReader puts what follows it under None.
    reader = csv.DictReader(io.StringIO(table.decode("utf-8-sig", errors="replace")))
    missing = {"id", *COLUMNS.values()} - set(reader.fieldnames or ())
    if missing:
        raise DataSetError(f"{path}: styles.csv lacks the column {', '.join(sorted(missing))}")
    rows: dict[str, dict[str, str]] = {}
    skipped: Counter[str] = Counter()
    for row in reader:
        labels = {head: (row[column] or "").strip() for head, column in COLUMNS.items()}
        if not (row["id"] or "").strip().isalnum():
            skipped["no id"] += 1
        elif row["id"] in rows:
            skipped["id seen before"] += 1
        elif any(label in _UNLABELLED for label in labels.values()):
            unlabelled = next(head for head in HEADS if labels[head] in _UNLABELLED)
            skipped[f"no {unlabelled}"] += 1
        else:
            rows[row["id"]] = {"id": row["id"], **{COLUMNS[h]: labels[h] for h in HEADS}}
    return list(rows.values()), skipped


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[str], bytes]]:
    """A function that reads a file of the data set by its name, KeyError where there is none."""
    if path.is_dir():
        tables = sorted(path.rglob("styles.csv"), key=lambda file: len(file.parts))
        if not tables:
            raise DataSetError(f"{path}: no styles.csv in it")

        def read(name: str) -> bytes:
            try:
                return (tables[0].parent / name).read_bytes()
            except FileNotFoundError as error:
                raise KeyError(name) from error

        yield read
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            tables_in = [name for name in archive.namelist() if Path(name).name == "styles.csv"]
            if not tables_in:
                raise DataSetError(f"{path}: no styles.csv in it")
            root = min(tables_in, key=len).removesuffix("styles.csv")
            yield lambda name: archive.read(root + name)
    else:
        raise DataSetError(
            f"{path} is neither a directory nor a zip file; "
            "name a Fashion Product Images data set (styles.csv + images/)"
        )

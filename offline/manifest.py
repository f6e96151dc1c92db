"""Lists the photos of a source, and cuts the list into parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from mlc_core.catalog.source import fault_of, listed_source
from mlc_core.errors import DataSetError
from mlc_core.sources.files import Progress
from mlc_core.sources.table import Row
from offline.rows import Failure

PART, ID, PHOTO = "part", "id", "photo"  # columns of a block
# Between two parts a worker waits for about 15 ms. A kill loses the parts in work.
_PARTS, _LEAST, _MOST = 48, 32, 2_000
_BLOCK = 50_000


class Manifest(NamedTuple):
    """The photos of a source. It holds names, never contents.

    Attributes:
        root: the directory or zip that the names are in.
        photos: a row with id and photo for each, as a table.
        rejected: rows of the source that name no photo to label.
        digest: of the ids and the names, and of the length of a zip.
    """

    root: Path
    photos: pa.Table
    rejected: list[Failure]
    digest: str

    def parts(self) -> list[pa.Table]:
        """The photos in parts: a part is one file of the result."""
        size = min(_MOST, max(_LEAST, -(-len(self.photos) // _PARTS)))
        slices = [self.photos.slice(at, size) for at in range(0, len(self.photos), size)]
        return [
            each.append_column(PART, pa.array([number] * len(each), pa.int32()))
            for number, each in enumerate(slices)
        ]


def read_manifest(source: Path, report: Progress) -> Manifest:
    """List the photos of a source.

    Raises:
        DataSetError: there are none.
    """
    digest = hashlib.sha256()
    rejected: list[Failure] = []
    with listed_source(source, report) as listing:
        if listing.root.is_file():
            digest.update(f"{listing.root.stat().st_size}\n".encode())
        usable = _usable(listing.photos, rejected, digest)
        photos = pa.Table.from_batches(_batches(usable), _SCHEMA)
    if not len(photos) and not rejected:
        raise DataSetError(f"{source} has no rows; name a source with photos")
    return Manifest(listing.root.resolve(), photos, rejected, digest.hexdigest())


_SCHEMA = pa.schema([(ID, pa.string()), (PHOTO, pa.string())])


def _usable(
    rows: Iterable[tuple[Row, str]], rejected: list[Failure], digest: hashlib._Hash
) -> Iterator[tuple[str, str]]:
    known: set[str] = set()
    for row, photo in rows:
        fault = fault_of(row, known) or _nameless(photo) or _nameless(row.id)
        digest.update(f"{row.id}\0{photo}\0{fault}\n".encode("utf-8", "surrogateescape"))
        if fault:
            rejected.append(Failure(row.id, photo, f"{fault} (row {row.number})"))
        else:
            known.add(row.id)
            yield row.id, photo


def _nameless(name: str) -> str:
    if not name:
        return "no photo is named"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    return ""


def _batches(rows: Iterator[tuple[str, str]]) -> Iterator[pa.RecordBatch]:
    while block := list(islice(rows, _BLOCK)):
        columns = [pa.array(column, pa.string()) for column in zip(*block, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)

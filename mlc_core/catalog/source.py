"""Reads a shop's products as it has them: a table with ids and attributes, or photos alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mlc_core.catalog.filters import Value, parse_value
from mlc_core.errors import DataSetError
from mlc_core.sources.files import Files, Progress, Read, files_of
from mlc_core.sources.table import Row, Table
from mlc_core.spec import HEADS

_NAME_ONE = "name a directory, a zip, or a table (CSV, TSV or Parquet)"
_TABLES = (".csv", ".tsv", ".parquet")
_PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_ID = ("id", "sku", "product_id")
_PHOTO = ("path", "photo", "image", "file", "filename", "image_path")
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_MISSING = {"", "na", "n/a", "nan", "null", "none", "<na>", "#n/a", "\\n"}


class Item(NamedTuple):
    """A product of the source.

    Attributes:
        row: where it stands in the table, for reports.
        photo: the name of its file.
    """

    row: Row
    photo: str
    attributes: Mapping[str, Value]


class Source(NamedTuple):
    """A shop's products.

    Attributes:
        read: reads the file of a photo by its name; raises Unreadable.
    """

    items: Sequence[Item]
    read: Read


@contextmanager
def opened_source(path: Path, report: Progress) -> Iterator[Source]:
    """Yield the products of a directory, a zip or a table.

    A directory or a zip may hold a table, at any depth. The names of photos in it are relative to
    its folder. Without one, each photo is a product, and its name without the ending the id.

    A table has a column with the ids, and one with the names of the photos; without that, the photo
    is images/<id>.jpg. Its other columns are attributes. Empty cells are none.

    Args:
        report: told what columns are used, and what values a filter may miss.

    Raises:
        DataSetError: there are no products at this path.
    """
    if path.suffix.lower() in _TABLES and path.is_file():
        table = _table(path.name, path.read_bytes(), path)
        with files_of(path.parent, _NAME_ONE) as files:
            yield Source(_items(table, path, report), files.read)
        return
    with files_of(path, _NAME_ONE) as files:
        tables = [name for name in files.names if name.lower().endswith(_TABLES)]
        if not tables:
            yield Source(_photos(path, files), files.read)
            return
        top = min(tables, key=lambda name: (name.count("/"), name))
        if len(tables) > 1:
            report(f"of {len(tables)} tables, {top} counts")
        folder = PurePosixPath(top).parent
        items = _items(_table(top, files.read(top), path), path, report)
        yield Source(items, lambda name: files.read((folder / name).as_posix()))


def _photos(path: Path, files: Files) -> list[Item]:
    names = sorted(name for name in files.names if name.lower().endswith(_PHOTOS))
    if not names:
        raise DataSetError(f"{path}: no photos and no table in it; {_NAME_ONE}")
    return [
        Item(Row(number, PurePosixPath(name).with_suffix("").as_posix(), {}), name, {})
        for number, name in enumerate(names, start=1)
    ]


def _table(name: str, contents: bytes, path: Path) -> Table:
    if name.lower().endswith(".parquet"):
        return _parquet(contents, path)
    try:
        return Table(contents)
    except ValueError as error:
        raise DataSetError(f"{path}: {name} can't be read ({error})") from error


def _parquet(contents: bytes, path: Path) -> Table:
    try:
        import pyarrow  # noqa: PLC0415  (tens of megabytes, which few need)
        from pyarrow import parquet  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise DataSetError(
            f"{path}: Parquet needs another package ({missing}): pip install pyarrow, or export CSV"
        ) from missing
    try:
        columns = parquet.read_table(pyarrow.BufferReader(contents)).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataSetError(f"{path} is no Parquet file that can be read ({error})") from error
    return Table.of(columns)


def _items(table: Table, path: Path, report: Progress) -> list[Item]:
    by_name = {name.lower(): name for name in reversed(table.columns)}
    id_column = next((by_name[name] for name in _ID if name in by_name), None)
    if id_column is None:
        raise DataSetError(
            f"{path}: the table lacks a column of ids; it has {', '.join(table.columns)}, "
            f"and needs one of {', '.join(_ID)}"
        )
    photo_column = next((by_name[name] for name in _PHOTO if name in by_name), None)
    names = _attribute_names(
        [each for each in table.columns if each not in (id_column, photo_column)], report
    )
    items = []
    for row in table.rows:
        name = row.cells[id_column]
        photo = row.cells[photo_column] if photo_column else f"images/{name}.jpg"
        values = {
            names[column]: parse_value(cell)
            for column, cell in row.cells.items()
            if column in names and cell.lower() not in _MISSING
        }
        items.append(Item(row._replace(id=name), photo, values))
    _report_mixed(items, report)
    return items


def _attribute_names(columns: Sequence[str], report: Progress) -> dict[str, str]:
    """Column -> the name of the attribute that a filter takes."""
    names: dict[str, str] = {}
    for column in columns:
        name = _NO_NAME.sub("_", column).strip("_-.")[:64]
        if not name:
            continue
        if name[0].isdigit():
            name = f"_{name[:63]}"
        if name in HEADS or name in names.values():
            name = f"shop_{name}"[:64]
        names[column] = name
    renamed = [f"{column!r} is {name}" for column, name in names.items() if column != name]
    if renamed:
        report(f"columns with other names in filters: {', '.join(renamed)}")
    return names


def _report_mixed(items: Sequence[Item], report: Progress) -> None:
    """Tell of columns that are numbers but for a few values, which no comparison finds."""
    kinds: dict[str, tuple[list[Any], list[Any]]] = {}
    for item in items:
        for name, value in item.attributes.items():
            numbers, others = kinds.setdefault(name, ([], []))
            (numbers if isinstance(value, float) else others).append(value)
    for name, (numbers, others) in kinds.items():
        if 0 < len(others) < len(numbers):
            report(
                f"{name}: {len(others)} of {len(numbers) + len(others)} values are no numbers, as "
                f"{str(others[0])[:40]!r}; filters as {name}<50 leave these out"
            )

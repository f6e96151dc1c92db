"""Reads a shop's products as it has them: a table with ids and attributes, or photos alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mlc_core.catalog.catalog import ID
from mlc_core.catalog.filters import Value, parse_value
from mlc_core.errors import DataSetError
from mlc_core.sources.files import Progress, Read, files_of, reader_of
from mlc_core.sources.table import Row, Table
from mlc_core.spec import HEADS

_NAME_ONE = "name a directory, a zip, or a table (CSV, TSV or Parquet)"
_TABLES = (".csv", ".tsv", ".parquet")
_PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_ID = ("id", "sku", "product_id")
_PHOTO = ("path", "photo", "image", "file", "filename", "image_path")
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
# Two digits at most: 1,299 is a thousand to others.
_DECIMAL_COMMA = re.compile(r"-?[0-9]+,[0-9]{1,2}")
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
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


class Listing(NamedTuple):
    """The photos of a source, before any of them is read.

    Attributes:
        root: the directory or zip that holds them.
        photos: the row of each, and its name in `root`; it may be a URL. They come one by one.
    """

    root: Path
    photos: Iterator[tuple[Row, str]]


class _Found(NamedTuple):
    root: Path
    folder: PurePosixPath  # in the root; the names of a table are relative to it
    table: Table | None
    names: Collection[str]
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
    with _found(path, report) as found:
        if found.table is None:
            yield Source(
                [Item(row, name, {}) for row, name in _photos(path, found.names)], found.read
            )
            return
        items = _items(found.table, path, report)
        yield Source(items, lambda name: found.read((found.folder / name).as_posix()))


@contextmanager
def listed_source(path: Path, report: Progress) -> Iterator[Listing]:
    """Yield the photos of what `opened_source` takes, without attributes.

    Raises:
        DataSetError: there are no products at this path.
    """
    with _found(path, report, (*_ID, *_PHOTO)) as found:
        if found.table is None:
            photos = _photos(path, found.names)
        else:
            named = _named(found.table, *_columns(found.table, path))
            photos = ((row, _inside(found.folder, photo)) for row, photo in named)
        yield Listing(found.root, photos)


def fault_of(row: Row, known: Container[str]) -> str:
    """Why a row can't be a product; "" if it can.

    Args:
        known: the ids of the rows before it.
    """
    if row.fault:
        return row.fault
    if not re.fullmatch(ID, row.id):
        return "an id of over 200 characters, or with odd ones" if row.id else "no id"
    return "an id that was there before" if row.id in known else ""


def is_url(name: str) -> bool:
    return name[:8].lower().startswith(("http://", "https://"))


@contextmanager
def _found(path: Path, report: Progress, only: Collection[str] = ()) -> Iterator[_Found]:
    """Yield what is at a path.

    Args:
        only: the columns that are needed of a table, in lower case; all if none is named.
    """
    if path.suffix.lower() in _TABLES and path.is_file():
        table = _table(path.name, path.read_bytes(), path, only)
        with reader_of(path.parent, _NAME_ONE) as read:
            yield _Found(path.parent, PurePosixPath(), table, (), read)
        return
    with files_of(path, _NAME_ONE) as files:
        tables = [name for name in files.names if name.lower().endswith(_TABLES)]
        if not tables:
            yield _Found(path, PurePosixPath(), None, files.names, files.read)
            return
        top = min(tables, key=lambda name: (name.count("/"), name))
        if len(tables) > 1:
            report(f"of {len(tables)} tables, {top} counts")
        table = _table(top, files.read(top), path, only)
        yield _Found(path, PurePosixPath(top).parent, table, files.names, files.read)


def _inside(folder: PurePosixPath, photo: str) -> str:
    return photo if not photo or is_url(photo) else (folder / photo).as_posix()


def _photos(path: Path, files: Collection[str]) -> Iterator[tuple[Row, str]]:
    names = sorted(name for name in files if name.lower().endswith(_PHOTOS))
    if not names:
        raise DataSetError(f"{path}: no photos and no table in it; {_NAME_ONE}")
    return (
        (Row(number, PurePosixPath(name).with_suffix("").as_posix(), {}), name)
        for number, name in enumerate(names, start=1)
    )


def _table(name: str, contents: bytes, path: Path, only: Collection[str]) -> Table:
    if name.lower().endswith(".parquet"):
        return _parquet(contents, path, only)
    try:
        return Table(contents)
    except ValueError as error:
        raise DataSetError(f"{path}: {name} can't be read ({error})") from error


def _parquet(contents: bytes, path: Path, only: Collection[str]) -> Table:
    try:
        import pyarrow  # noqa: PLC0415  (tens of megabytes, which few need)
        from pyarrow import parquet  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise DataSetError(
            f"{path}: Parquet needs another package ({missing}): pip install pyarrow, or export CSV"
        ) from missing
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(contents))
        names = file.schema_arrow.names
        needed = [name for name in names if name.lower() in only]
        columns = file.read(needed or None).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataSetError(f"{path} is no Parquet file that can be read ({error})") from error
    return Table.of(columns)


def _columns(table: Table, path: Path) -> tuple[str, str | None]:
    """The columns of ids and of the names of photos."""
    by_name = {name.lower(): name for name in reversed(table.columns)}
    id_column = next((by_name[name] for name in _ID if name in by_name), None)
    if id_column is None:
        raise DataSetError(
            f"{path}: the table lacks a column of ids; it has {', '.join(table.columns)}, "
            f"and needs one of {', '.join(_ID)}"
        )
    return id_column, next((by_name[name] for name in _PHOTO if name in by_name), None)


def _named(table: Table, id_column: str, photo_column: str | None) -> Iterator[tuple[Row, str]]:
    """Each row under its id, and the name of its photo."""
    for row in table:
        name = row.cells[id_column]
        photo = row.cells[photo_column] if photo_column else f"images/{name}.jpg"
        if not is_url(photo):
            photo = photo.replace("\\", "/")  # tables that were made on Windows
        yield row._replace(id=name), photo


def _items(table: Table, path: Path, report: Progress) -> list[Item]:
    id_column, photo_column = _columns(table, path)
    names = _attribute_names(
        [each for each in table.columns if each not in (id_column, photo_column)], report
    )
    named = list(_named(table, id_column, photo_column))
    cells = {
        column: [row.cells[column] for row, _ in named if _is_there(row.cells[column])]
        for column in names
    }
    value_of = {column: _reader(name, cells[column], report) for column, name in names.items()}
    items = []
    for row, photo in named:
        values = {
            name: value_of[column](row.cells[column])
            for column, name in names.items()
            if _is_there(row.cells[column])
        }
        items.append(Item(row, photo, values))
    _report_mixed(items, report)
    return items


def _is_there(cell: str) -> bool:
    return cell.lower() not in _MISSING


def _reader(name: str, cells: Sequence[str], report: Progress) -> Callable[[str], Value]:
    """What reads the cells of a column. Tables say yes for true, and 12,50 for 12.5.

    12,50 is a number only where most cells are numbers, and no cell has another kind of comma. Else
    it may be two sizes.
    """
    seen = {cell.lower(): cell for cell in cells}
    if seen.keys() <= _TRUTHS.keys() and not seen.keys() <= {"0", "1"}:
        if words := [cell for lower, cell in seen.items() if lower not in ("true", "false")]:
            report(f"{name}: cells as {words[0]!r} are read as true or false")
        return lambda cell: _TRUTHS[cell.lower()]
    decimals = [cell for cell in cells if "," in cell]
    if decimals and all(_DECIMAL_COMMA.fullmatch(cell) for cell in decimals):
        values = [_with_decimal_comma(cell) for cell in cells]
        if 2 * sum(isinstance(value, float) for value in values) > len(values):
            report(f"{name}: cells as {decimals[0]!r} are read as numbers with a decimal comma")
            return _with_decimal_comma
    return parse_value


def _with_decimal_comma(cell: str) -> Value:
    return parse_value(cell.replace(",", "."))


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

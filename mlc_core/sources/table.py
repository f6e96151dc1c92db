"""Reads the table of a data set, styles.csv, and counts the rows that are skipped."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby
from typing import Any, NamedTuple

# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_DELIMITERS = ",;\t"
_RANGES, _SHOWN = 20, 60  # ranges of rows, and characters of an id, in a report


class Row(NamedTuple):
    """A product.

    Attributes:
        number: line of the file, from 1 for the header.
        cells: column -> value without spaces around it, "" where the row is too short.
        has_surplus: it has more cells than there are columns. Some rows of the original table have
            an unquoted comma in the name, the last column.
        fault: why its cells can't be told apart; "" if they can.
    """

    number: int
    id: str
    cells: Mapping[str, str]
    has_surplus: bool = False
    fault: str = ""


_Records = Callable[[], Iterator[tuple[int, list[str], str]]]  # number, fields, fault


class Table:
    """A CSV file with a header. Cells are separated by commas, semicolons or tabs.

    It may be UTF-8, UTF-16 or UTF-32. A line that is no UTF-8 is read as Windows-1252.

    Raises:
        ValueError: its header is not CSV.
    """

    _records: _Records

    def __init__(self, contents: bytes) -> None:
        lines = _lines(contents)
        header = next((at for at, line in enumerate(lines) if line.strip()), len(lines))
        first = "".join(lines[header : header + 1])
        delimiter = max(_DELIMITERS, key=first.count)
        try:
            self.columns = [name.strip() for name in next(_reader([first], delimiter), [])]
        except csv.Error as error:
            raise ValueError(str(error)) from error
        self._records = partial(_records, lines, header + 1, len(self.columns), delimiter)

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[object]]) -> Table:
        """A table of values that are there already, written as a CSV file has them."""
        table = cls.__new__(cls)
        table.columns = list(columns)
        cells = [
            ["" if value is None else _written(value) for value in each]
            for each in columns.values()
        ]
        table._records = lambda: (
            (number, list(fields), "") for number, fields in enumerate(zip(*cells, strict=True), 2)
        )
        return table

    def __iter__(self) -> Iterator[Row]:
        """The rows, one by one; a million of them at once take a gigabyte."""
        for number, fields, fault in self._records():
            if "".join(fields).strip() or len(fields) > 1:
                yield self._row(number, fields, fault)

    @cached_property
    def rows(self) -> list[Row]:
        return list(self)

    def _row(self, number: int, fields: list[str], fault: str) -> Row:
        width = len(self.columns)
        filled = [field.strip() for field in fields] + [""] * (width - len(fields))
        cells = dict(zip(self.columns, filled, strict=False))
        return Row(number, cells.get("id", ""), cells, any(filled[width:]), fault)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class Skips:
    """The skipped rows by reason."""

    def __init__(self) -> None:
        self._rows: dict[str, list[Row]] = {}

    def add(self, reason: str, row: Row) -> None:
        self._rows.setdefault(reason, []).append(row)

    def counts(self) -> dict[str, int]:
        """Reason -> number of rows, sorted by reason."""
        return {reason: len(rows) for reason, rows in sorted(self._rows.items())}

    def lines(self) -> list[str]:
        """For each reason: how many rows, one as an example, and the numbers of all."""
        return [
            f"{len(rows)} rows: {reason}, as row {rows[0].number} with id {rows[0].id[:_SHOWN]!r}"
            + (f"; rows {_numbers(rows)}" if len(rows) > 1 else "")
            for reason, rows in sorted(self._rows.items())
        ]


def _numbers(rows: list[Row]) -> str:
    """The numbers of rows, such as 2, 5–9 and 14; and how many more if there are many ranges."""
    numbers = sorted(row.number for row in rows)
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(numbers), lambda each: each[1] - each[0])
    ]
    shown = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs[:_RANGES]]
    more = sum(map(len, runs[_RANGES:]))
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _lines(contents: bytes) -> list[str]:
    """The lines of a file, however they end. Each ends in a line feed."""
    encoding = next((name for mark, name in _MARKS if contents.startswith(mark)), "")
    if not encoding and b"\0" in contents[:2]:  # UTF-16 without a mark
        encoding = "utf-16-be" if contents[:1] == b"\0" else "utf-16-le"
    if encoding:
        contents = contents.decode(encoding, "replace").encode()
    return [f"{_text(line)}\n" for line in contents.splitlines()]


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("cp1252", "replace")


def _reader(lines: list[str], delimiter: str, **options: Any) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, **options)


def _records(
    lines: list[str], at: int, width: int, delimiter: str
) -> Iterator[tuple[int, list[str], str]]:
    """Line number and fields of each record, and why they can't be told apart, if they can't.

    A quote that is never closed must not swallow the rows that follow. So a line is continued only
    by lines that are no row by themselves, and only if the quotes of all of them match.
    """
    while at < len(lines):
        end = at + 1
        quotes = lines[at].count('"')
        while quotes % 2 and end < len(lines) and lines[end].count(delimiter) < width - 1:
            quotes += lines[end].count('"')
            end += 1
        fields = _record(lines[at:end], delimiter)
        if fields is None:
            end = at + 1
            fields = _record(lines[at:end], delimiter)
        if fields is None:
            yield at + 1, *_mended(lines[at], width, delimiter)
        else:
            yield at + 1, fields, ""
        at = end


def _record(lines: list[str], delimiter: str) -> list[str] | None:
    """The fields of these lines; None if they are not one record whose quotes match."""
    try:
        records = list(_reader(lines, delimiter, strict=True))
    except csv.Error:
        return None
    return records[0] if len(records) == 1 else None


def _mended(line: str, width: int, delimiter: str) -> tuple[list[str], str]:
    """The fields of a line whose quotes don't match, and why they can't be told apart."""
    try:
        fields = next(_reader([line], delimiter))
        plain = next(_reader([line], delimiter, quoting=csv.QUOTE_NONE))
    except csv.Error as error:
        return line.split(delimiter)[:width], f"no CSV ({error})"
    if len(fields) >= width:  # the stray quote is in the last cell
        return fields, ""
    if len(plain) == width:
        return [field.strip().strip('"') for field in plain], ""
    return plain, "quotes that don't match"

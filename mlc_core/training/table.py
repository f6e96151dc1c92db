"""Reads the table of a data set, styles.csv, and counts the rows that are skipped."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """A product.

    Attributes:
        number: line of the file, from 1 for the header.
        cells: column -> value without spaces around it, "" where the row is too short.
    """

    number: int
    id: str
    cells: Mapping[str, str]


class Table:
    """A CSV file with a header.

    Raises:
        ValueError: it is not CSV.
    """

    def __init__(self, contents: bytes) -> None:
        text = contents.decode("utf-8-sig", errors="replace")
        lines = list(io.StringIO(text, newline=None))
        try:
            self.columns = [name.strip() for name in next(csv.reader(lines), [])]
            self.rows = [
                self._row(number, fields)
                for number, fields in _records(lines, len(self.columns))
                if fields
            ][1:]
        except csv.Error as error:
            raise ValueError(str(error)) from error

    def _row(self, number: int, fields: list[str]) -> Row:
        # Some rows of the original table have an unquoted comma in the name, the last column. The
        # fields after that comma belong to no column.
        filled = fields + [""] * (len(self.columns) - len(fields))
        cells = {column: filled[at].strip() for at, column in enumerate(self.columns)}
        return Row(number, cells.get("id", ""), cells)


class Skips:
    """Counts of skipped rows by reason, with the first row of each as an example."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, Row] = {}

    def add(self, reason: str, row: Row) -> None:
        self._counts[reason] += 1
        self._first.setdefault(reason, row)

    def counts(self) -> dict[str, int]:
        """Reason -> number of rows, sorted by reason."""
        return dict(sorted(self._counts.items()))

    def lines(self) -> list[str]:
        """For each reason: how many rows, and an example."""
        return [
            f"{count} rows: {reason}, as row {row.number} with id {row.id!r}"
            for reason, count in self.counts().items()
            for row in [self._first[reason]]
        ]


def _records(lines: list[str], width: int) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of each row.

    A quote that is never closed must not swallow the rows that follow, so a line is continued only
    by lines that are no row by themselves.
    """
    at = 0
    while at < len(lines):
        end = at + 1
        quotes = lines[at].count('"')
        while quotes % 2 and end < len(lines) and len(next(csv.reader([lines[end]]))) < width:
            quotes += lines[end].count('"')
            end += 1
        for fields in csv.reader(lines[at:end]):
            yield at + 1, fields
        at = end

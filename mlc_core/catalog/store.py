"""The truth about a catalogue: one SQLite file. What searches fast is built from it.

A write is acknowledged once it is on the disk. Each write gets the next number, and a product that
was removed leaves its number behind. So another process learns what changed by asking for what came
after the last number that it knows.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlc_core.catalog.catalog import CatalogError, Product
from mlc_core.spec import Embedding

_FORMAT = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS catalogue (format INTEGER, digest TEXT, dimensions INTEGER);
CREATE TABLE IF NOT EXISTS products (
    id TEXT PRIMARY KEY, number INTEGER NOT NULL, vector BLOB, labels TEXT, attributes TEXT,
    photo BLOB, written REAL NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS by_number ON products (number);
CREATE TABLE IF NOT EXISTS pictures (id TEXT PRIMARY KEY, picture BLOB NOT NULL);
"""


class Change(NamedTuple):
    """What became of a product.

    Attributes:
        product: None if it was removed.
    """

    number: int
    id: str
    product: Product | None


class Store:
    """The products of one catalogue, all embedded by one model.

    Args:
        path: of the file; created if it is missing.
        embedding: of the model that embeds.

    Raises:
        CatalogError: the file is no catalogue, or belongs to another model.
    """

    def __init__(self, path: Path, embedding: Embedding) -> None:
        self._reading = threading.Lock()
        try:
            self._database = _connect(path)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_TABLES)
            row = self._database.execute("SELECT * FROM catalogue").fetchone()
            if row is None:
                row = (_FORMAT, embedding.digest, embedding.dimensions)
                self._database.execute("INSERT INTO catalogue VALUES (?, ?, ?)", row)
            self._reader = _connect(path)  # so that no read waits for a write to reach the disk
        except sqlite3.DatabaseError as error:
            raise CatalogError(f"{path} is no catalogue: {error}") from error
        if tuple(row) != (_FORMAT, embedding.digest, embedding.dimensions):
            raise CatalogError(
                f"{path} was indexed by another model (embedding {row[1][:12]}, the model in use "
                f"has {embedding.digest[:12]}); index the catalogue again with `mlc index`"
            )

    def put(self, products: Sequence[Product]) -> None:
        """Add products, or replace those of the same id."""
        now = time.time()
        with self._writing() as last:
            rows = [
                (
                    each.id, last + n, each.vector.astype("<f2").tobytes(),
                    json.dumps(dict(each.labels)), json.dumps(dict(each.attributes)), each.photo,
                    now,
                )
                for n, each in enumerate(products, start=1)
            ]  # fmt: skip
            self._database.executemany(
                "INSERT OR REPLACE INTO products VALUES (?, ?, ?, ?, ?, ?, ?)", rows
            )
            self._database.executemany(
                "INSERT OR REPLACE INTO pictures VALUES (?, ?)",
                [(each.id, each.picture) for each in products if each.picture],
            )

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Remove products; return the ids of those that were there."""
        removed: list[str] = []
        with self._writing() as last:
            for each in ids:
                done = self._database.execute(
                    "UPDATE products SET number = ?, vector = NULL, labels = NULL, "
                    "attributes = NULL, photo = NULL, written = ? "
                    "WHERE id = ? AND vector IS NOT NULL",
                    (last + len(removed) + 1, time.time(), each),
                )
                if done.rowcount:
                    removed.append(each)
                    self._database.execute("DELETE FROM pictures WHERE id = ?", (each,))
        return removed

    def get(self, ids: Sequence[str]) -> dict[str, Product]:
        """The products with these ids, those that there are. Any thread may ask."""
        marks = ",".join("?" * len(ids))
        with self._reading:
            rows = self._reader.execute(
                f"SELECT id, vector, labels, attributes, photo FROM products WHERE id IN ({marks}) "  # noqa: S608
                "AND vector IS NOT NULL",
                ids,
            ).fetchall()
        return {name: _product(name, *values) for name, *values in rows}

    def picture(self, name: str) -> bytes | None:
        """The picture of a product; None if it has none. Any thread may ask."""
        with self._reading:
            row = self._reader.execute(
                "SELECT picture FROM pictures WHERE id = ?", (name,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def changes(self, after: int = 0, most: int = 10_000) -> list[Change]:
        """What was written after a number, in order, the last write of each product alone."""
        with self._reading:
            rows = self._reader.execute(
                "SELECT number, id, vector, labels, attributes, photo FROM products "
                "WHERE number > ? ORDER BY number LIMIT ?",
                (after, most),
            ).fetchall()
        return [
            Change(number, name, None if values[0] is None else _product(name, *values))
            for number, name, *values in rows
        ]

    def __len__(self) -> int:
        with self._reading:
            (count,) = self._reader.execute(
                "SELECT count(*) FROM products WHERE vector IS NOT NULL"
            ).fetchone()
        return int(count)

    def written_at(self) -> float | None:
        """When a product was written or removed last, in seconds since 1970; None if none was."""
        with self._reading:
            row = self._reader.execute(
                "SELECT written FROM products ORDER BY number DESC LIMIT 1"
            ).fetchone()
        return None if row is None else float(row[0])

    def close(self) -> None:
        """Close the file; what was acknowledged is on the disk already."""
        self._reader.close()
        self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """A transaction, with the number of the last write. It is on the disk when it ends."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            (last,) = self._database.execute(
                "SELECT coalesce(max(number), 0) FROM products"
            ).fetchone()
            yield int(last)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def embedding_of(path: Path) -> Embedding:
    """The embedding of a file's catalogue.

    Raises:
        CatalogError: the file is no catalogue.
    """
    try:
        with closing(_connect(path)) as database:
            row = database.execute("SELECT dimensions, digest FROM catalogue").fetchone()
    except sqlite3.DatabaseError as error:
        raise CatalogError(f"{path} is no catalogue: {error}") from error
    if row is None:
        raise CatalogError(f"{path} is no catalogue: it names no model")
    return Embedding(*row)


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA busy_timeout = 5000")
    return database


def _product(name: str, vector: bytes, labels: str, attributes: str, photo: bytes) -> Product:
    values = np.frombuffer(vector, "<f2").astype(np.float32)
    return Product(name, values, json.loads(labels), json.loads(attributes), photo)

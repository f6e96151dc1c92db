"""A catalogue in this process: a store on disk, and what searches it in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlc_core.catalog.catalog import Hit, Product
from mlc_core.catalog.columns import Columns
from mlc_core.catalog.filters import Filter
from mlc_core.catalog.index import Index
from mlc_core.catalog.store import Change, Store
from mlc_core.spec import Embedding

_READ = 10_000  # changes at a time


class _Rows:
    """Products in rows. A product that is replaced gets another row; its old one is dead."""

    def __init__(self, index: Index, names: list[str], columns: Columns) -> None:
        self.index, self.names, self.columns = index, names, columns
        self.row_of = {name: row for row, name in enumerate(names)}
        self.alive = np.zeros(len(names), bool)
        self.alive[list(self.row_of.values())] = True  # the last row of a name

    def search(
        self, vector: NDArray[np.float32], count: int, filters: Sequence[Filter]
    ) -> list[tuple[str, float]]:
        rows = len(self.columns)  # read first: what comes later has all of them
        passes = self.alive[:rows]
        if filters:
            passes = passes & self.columns.passing(filters, rows)
        numbers, similarity = self.index.search(vector, count, passes)
        return [
            (self.names[n], s) for n, s in zip(numbers.tolist(), similarity.tolist(), strict=True)
        ]

    def after(self, changes: Sequence[Change]) -> _Rows:
        """These rows with changes taken over, or other rows if these are full."""
        rows = self
        for change in changes:
            if rows.index.is_full:
                rows = rows.compact()
            rows.apply(change)
        return rows

    def apply(self, change: Change) -> None:
        """Take over a change; a row that is not noted to the end is not found."""
        before = self.row_of.pop(change.id, None)
        if change.product is not None:
            self.add(change.id, change.product.vector, change.product)
        if before is not None:
            self.alive[before] = False

    def add(self, name: str, vector: NDArray[np.float32], product: Product) -> None:
        row = self.index.add(vector)
        if row >= len(self.alive):
            self.alive = np.pad(self.alive, (0, len(self.alive) // 4 + 1024))
        self.names.append(name)
        self.alive[row] = True
        self.columns.add({**product.attributes, **product.labels})  # now it is found
        self.row_of[name] = row

    def compact(self) -> _Rows:
        """The same products with all vectors in clusters, and no dead rows."""
        rows = np.flatnonzero(self.alive[: len(self.columns)])
        names = [self.names[row] for row in rows.tolist()]
        return _Rows(Index(self.index.take(rows)), names, self.columns.take(rows))


class LocalCatalog:
    """Searches and changes a catalogue. Threads may search while one changes it.

    Other processes may change the same file: `follow` takes over what they wrote.

    Args:
        path: of the store.
        embedding: of the model that embeds photos.

    Raises:
        CatalogError: the file is no catalogue, or belongs to another model.
    """

    def __init__(self, path: Path, embedding: Embedding) -> None:
        self._store = Store(path, embedding)
        self._changing = threading.Lock()
        self._last = 0  # number of the last change that the rows have
        self._rows = self._load(embedding.dimensions)
        self._rebuild: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._rows.row_of)

    def search(
        self, vector: NDArray[np.float32], count: int, filters: Sequence[Filter] = ()
    ) -> list[Hit]:
        """The products that are most similar, of those that pass all filters.

        Args:
            vector: (dimensions,), of length 1.
            count: at most so many.
        """
        found: dict[str, float] = {}
        for name, similarity in self._rows.search(vector, count, filters):
            found.setdefault(name, similarity)  # one that is being replaced has two rows
        products = self._store.get(list(found))
        return [
            Hit(name, similarity, products[name].labels, products[name].attributes)
            for name, similarity in found.items()
            if name in products  # it may have been removed since
        ]

    def get(self, ids: Sequence[str]) -> dict[str, Product]:
        """The products with these ids, those that there are."""
        return self._store.get(ids)

    def picture(self, name: str) -> bytes | None:
        """The picture of a product; None if it has none."""
        return self._store.picture(name)

    def put(self, products: Sequence[Product]) -> None:
        """Add products, or replace those of the same id. They are on the disk when it returns."""
        with self._changing:
            self._store.put(products)
            self._follow()

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Remove products; returns the ids of those that were there."""
        with self._changing:
            removed = self._store.remove(ids)
            self._follow()
        return removed

    def follow(self) -> None:
        """Take over what other processes have written."""
        with self._changing:
            self._follow()

    def written_at(self) -> float | None:
        """When a product was written or removed last, in seconds since 1970; None if none was."""
        return self._store.written_at()

    def close(self) -> None:
        """Wait for a rebuild, and close the store."""
        if self._rebuild is not None:
            self._rebuild.join()
        self._store.close()

    def _follow(self) -> None:
        while changes := self._store.changes(self._last, _READ):
            self._rows = self._rows.after(changes)
            self._last = changes[-1].number
        if self._rows.index.is_due and (self._rebuild is None or not self._rebuild.is_alive()):
            self._rebuild = threading.Thread(target=self._compact, daemon=True)
            self._rebuild.start()

    def _compact(self) -> None:
        """Build the rows anew beside those that are in use, then take their place."""
        with self._changing:
            old, last = self._rows, self._last
        new = old.compact()
        with self._changing:
            if self._rows is not old:
                return  # they were full, and are new already
            # What came while it was built: `compact` saw some of it, which does no harm twice.
            self._rows = new.after(self._store.changes(last, self._last - last + 1))

    def _load(self, dimensions: int) -> _Rows:
        """Read the whole store."""
        names: list[str] = []
        vectors: list[NDArray[np.float32]] = []
        columns = Columns()
        while changes := self._store.changes(self._last, _READ):
            kept = [each for each in changes if each.product is not None]
            for change in kept:
                names.append(change.id)
                columns.add({**change.product.attributes, **change.product.labels})  # type: ignore[union-attr]
            if kept:
                vectors.append(np.stack([each.product.vector for each in kept]))  # type: ignore[union-attr]
            self._last = changes[-1].number
        whole = np.concatenate(vectors) if vectors else np.empty((0, dimensions), np.float32)
        return _Rows(Index(whole), names, columns)

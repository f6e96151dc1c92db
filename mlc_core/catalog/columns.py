"""Labels and attributes of many products in columns, so that a filter is a few array operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_core.catalog.filters import Filter, Value

_GROWTH = 1.5
_MISSING = -1
_RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip


class Columns:
    """The values of products, in the order in which they were added.

    A column has the values' codes, and numbers beside them. Truth values and texts have codes of
    their own, so that true is not "true".
    """

    def __init__(self) -> None:
        self._count = 0
        self._codes: dict[str, NDArray[np.int32]] = {}
        self._numbers: dict[str, NDArray[np.float64]] = {}
        self._known: dict[str, dict[tuple[type, Value], int]] = {}

    def __len__(self) -> int:
        return self._count

    def add(self, values: Mapping[str, Value]) -> None:
        """Add a product."""
        at = self._count
        for name, value in values.items():
            if name not in self._codes:
                self._codes[name] = np.full(max(at + 1, 64), _MISSING, np.int32)
                self._numbers[name] = np.full(max(at + 1, 64), np.nan)
                self._known[name] = {}
            if len(self._codes[name]) <= at:
                more = int(at * (_GROWTH - 1)) + 64
                self._codes[name] = np.pad(self._codes[name], (0, more), constant_values=_MISSING)
                self._numbers[name] = np.pad(self._numbers[name], (0, more), constant_values=np.nan)
            known = self._known[name]
            self._codes[name][at] = known.setdefault(_key(value), len(known))
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._numbers[name][at] = value
        self._count += 1

    def passing(self, filters: Sequence[Filter], count: int) -> NDArray[np.bool_]:
        """Whether each of the first `count` products passes all filters."""
        passes = np.ones(count, bool)
        for each in filters:
            if each.relation in _RELATIONS:
                numbers = _first(self._numbers.get(each.name), count, np.nan)
                passes &= _RELATIONS[each.relation](numbers, each.value)
            else:
                code = self._known.get(each.name, {}).get(_key(each.value), _MISSING - 1)
                equal = _first(self._codes.get(each.name), count, _MISSING) == code
                passes &= equal if each.relation == "=" else ~equal
        return passes

    def take(self, rows: NDArray[np.intp]) -> Columns:
        """The columns of some products alone, in their order."""
        taken = Columns()
        taken._count = len(rows)
        # Copies, since another thread may add a product meanwhile.
        taken._known = {name: dict(known) for name, known in dict(self._known).items()}
        end = int(rows.max()) + 1 if len(rows) else 0
        for name in taken._known:
            taken._codes[name] = _first(self._codes[name], end, _MISSING)[rows]
            taken._numbers[name] = _first(self._numbers[name], end, np.nan)[rows]
        return taken


def _first(column: Any, count: int, missing: float) -> Any:
    """The first values of a column; a product that came after it has none."""
    if column is None:
        return np.full(count, missing)
    if len(column) < count:
        return np.pad(column, (0, count - len(column)), constant_values=missing)
    return column[:count]


def _key(value: Value) -> tuple[type, Value]:
    if isinstance(value, bool):
        return bool, value
    return (float, float(value)) if isinstance(value, int | float) else (str, value)

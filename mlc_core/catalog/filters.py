"""Conditions on labels and attributes, as `category=Tshirts`, `color!=Red` or `price<50`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import NamedTuple

from mlc_core.errors import MlcError

Value = str | float | bool

NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"  # of a label or an attribute
_TEXT = re.compile(rf"({NAME})(<=|>=|!=|=|<|>)(.*)", re.DOTALL)
_ORDERED: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_TRUTH = {"true": True, "false": False}


class FilterError(MlcError):
    """A text is no condition."""


class Filter(NamedTuple):
    """One condition.

    Attributes:
        name: of a label or an attribute.
        relation: =, !=, <, <=, > or >=.
        value: what the product's value is compared with. Numbers are compared as numbers, true and
            false as truth values, everything else as text.
    """

    name: str
    relation: str
    value: Value

    def passes(self, value: Value | None) -> bool:
        """Whether a product with this value passes; None if it has none.

        A product without a value passes != alone.
        """
        if self.relation == "=":
            return value == self.value and isinstance(value, bool) == isinstance(self.value, bool)
        if self.relation == "!=":
            return not Filter(self.name, "=", self.value).passes(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return _ORDERED[self.relation](value, self.value)  # type: ignore[arg-type]


def parse_filter(text: str) -> Filter:
    """Read a condition.

    Raises:
        FilterError: the text is none; it says what one looks like.
    """
    found = _TEXT.fullmatch(text)
    if not found:
        raise FilterError(
            f"{text[:80]!r} is no filter; a filter is a name, one of = != < <= > >=, and a value, "
            "as category=Tshirts or price<50"
        )
    name, relation, wanted = found.groups()
    value = parse_value(wanted)
    if relation in _ORDERED and (isinstance(value, bool) or not isinstance(value, float)):
        raise FilterError(f"{relation} compares numbers, and {wanted[:80]!r} is none")
    return Filter(name, relation, value)


def parse_value(text: str) -> Value:
    """A truth value, a number, or the text itself."""
    if text in _TRUTH:
        return _TRUTH[text]
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text

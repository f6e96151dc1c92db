"""Percentiles of the values that a load test measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping


def percentile(counts: Mapping[int, int] | Mapping[float, int], share: float) -> float:
    """The value that `share` of a histogram's values do not exceed; NaN if there are none.

    Args:
        counts: value -> how often it occurs.
    """
    left = share * sum(counts.values())
    for value in sorted(counts):
        left -= counts[value]  # type: ignore[index]  # of either mapping
        if left <= 1e-9:
            return value
    return float("nan")


def p99(values: Iterable[float]) -> float:
    """The value that 99 of 100 values do not exceed; NaN if there are none."""
    return percentile(Counter(values), 0.99)

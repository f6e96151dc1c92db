"""Functions from the seconds since a scenario's start to its load, as a share of its peak."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

Level = Callable[[float, float], float]  # seconds since the start, seconds in all -> 0 to 1

# A shop's day: the load of each hour, as a share of the busiest hour's.
_SALE_DAY = (
    0.15, 0.10, 0.08, 0.06, 0.06, 0.10, 0.20, 0.35, 0.50, 0.60, 0.65, 0.70,
    0.75, 0.70, 0.65, 0.65, 0.70, 0.75, 0.85, 0.95, 1.00, 0.90, 0.60, 0.30,
)  # fmt: skip


def steady(_at_s: float, _all_s: float) -> float:
    return 1.0


def ramp(at_s: float, all_s: float) -> float:
    """From nothing to the peak."""
    return at_s / all_s


def spike(at_s: float, all_s: float) -> float:
    """Ten times as much within a second, in the middle third."""
    return 1.0 if all_s / 3 <= at_s < 2 * all_s / 3 else 0.1


def sale_day(at_s: float, all_s: float) -> float:
    """24 hours in the time of the run, interpolated linearly between the hours."""
    hour = 24 * at_s / all_s
    before, after = math.floor(hour) % 24, math.ceil(hour) % 24
    return _SALE_DAY[before] + (hour % 1) * (_SALE_DAY[after] - _SALE_DAY[before])


def arrivals(
    level: Level, peak: float, seconds: float, chance: np.random.Generator
) -> Iterator[float]:
    """Times of a Poisson process whose rate follows a level, in seconds since the start.

    It draws arrivals at the peak's rate and keeps each with the level's probability: thinning
    (Lewis and Shedler 1979, Naval Research Logistics Quarterly 26:403).
    """
    at_s = 0.0
    while (at_s := at_s + chance.exponential(1 / peak)) < seconds:
        if chance.random() < level(at_s, seconds):
            yield at_s

"""Estimates how fast a queue moves, for batches that run in a fixed number of slots."""

from __future__ import annotations

import math


class Pace:
    """How fast items leave while every slot is taken: a moving average over about a second.

    What runs beside free slots says little: a lone item takes a slot for as long as many would.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._items = self._seconds = self._at = self._full_s = 0.0
        self._full_since: float | None = None

    @property
    def seconds_per_item(self) -> float:
        """0 while nothing is known."""
        return self._seconds / self._items if self._items else 0.0

    def full_s(self, now: float) -> float:
        """For how long every slot has been taken, in all."""
        return self._full_s + (0.0 if self._full_since is None else now - self._full_since)

    def taken(self, slots: int, now: float) -> None:
        """Note how many slots are taken from now on."""
        full = slots == self._slots
        if full and self._full_since is None:
            self._full_since = now
        elif not full and self._full_since is not None:
            self._full_s, self._full_since = self.full_s(now), None

    def ran(self, items: int, took_s: float, full_s: float, now: float) -> None:
        """Note a batch that ended.

        Args:
            full_s: the part of `took_s` in which every slot was taken. As many batches as there
                are slots share it.
        """
        if took_s > 0:
            kept = math.exp(self._at - now)
            self._items = kept * self._items + items * full_s / took_s
            self._seconds = kept * self._seconds + full_s / self._slots
            self._at = now

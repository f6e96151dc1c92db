"""Estimates how fast a queue moves, for batches that run in a fixed number of slots."""

from __future__ import annotations

import math

# A queue stands still when no batch has ended for so many times as long as a batch takes.
_STALLED = 3.0


class Pace:
    """How fast items leave while every slot is taken: a moving average over about a second.

    What runs beside free slots says little: a lone item takes a slot for as long as many would.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._items = self._seconds = self._at = self._full_s = 0.0
        self._batch_s, self._moved = 0.0, float("-inf")
        self._full_since: float | None = None

    @property
    def seconds_per_item(self) -> float:
        """0 while nothing is known."""
        return self._seconds / self._items if self._items else 0.0

    def full_s(self, now: float) -> float:
        """For how long every slot has been taken, in all."""
        return self._full_s + (0.0 if self._full_since is None else now - self._full_since)

    def is_stalled(self, now: float, patience_s: float) -> bool:
        """Whether all slots are taken and no batch has ended for much longer than batches take.

        Args:
            patience_s: it is not stalled before.
        """
        if self._full_since is None:
            return False
        still_s = now - max(self._full_since, self._moved)
        return still_s > max(patience_s, _STALLED * self._batch_s)

    def moved(self, took_s: float, now: float) -> None:
        """Note that a batch ended that an outage has kept: it says little of the pace."""
        self._moved = now
        self._batch_s = min(took_s, 2 * self._batch_s) if self._batch_s else took_s

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
        self._moved = now
        if took_s > 0:
            kept = math.exp(self._at - now)
            self._items = kept * self._items + items * full_s / took_s
            self._seconds = kept * self._seconds + full_s / self._slots
            self._batch_s = kept * self._batch_s + (1 - kept) * took_s if self._at else took_s
            self._at = now

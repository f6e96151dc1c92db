"""`locust -f loadtest/one_against_four.py --host ONE --against FOUR`: loads both in turn.

Turns of 5 s keep the load of one variant off the other, if both share a machine.
"""

from __future__ import annotations

import time

from locust.env import Environment

from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "OneAgainstFour", "Shopper"]

_TURN_S = 5.0


class OneAgainstFour(Scenario):
    needs = ("against",)

    def target(self, environment: Environment) -> tuple[str, str]:
        if int(time.monotonic() / _TURN_S) % 2:  # workers on one machine take turns together
            return environment.parsed_options.against, "four "  # type: ignore[union-attr]
        return "", "one "

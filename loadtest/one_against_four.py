"""`locust -f loadtest/one_against_four.py --host ONE --against FOUR`: both, in turn.

On a machine they share, half the time each keeps one's load off the other.
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

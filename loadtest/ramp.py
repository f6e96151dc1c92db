"""`locust -f loadtest/ramp.py`: from nothing to the peak."""

from loadtest.levels import ramp
from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "Ramp", "Shopper"]


class Ramp(Scenario):
    level = staticmethod(ramp)

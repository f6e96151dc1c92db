"""`locust -f loadtest/spike.py`: ten times the load within a second, in the middle third."""

from loadtest.levels import spike
from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "Shopper", "Spike"]


class Spike(Scenario):
    level = staticmethod(spike)

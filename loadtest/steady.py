"""`locust -f loadtest/steady.py`: the same load all the time."""

from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "Shopper", "Steady"]


class Steady(Scenario):
    pass

"""`locust -f loadtest/steady.py`: constant load."""

from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "Shopper", "Steady"]


class Steady(Scenario):
    pass

"""`locust -f loadtest/hostile.py`: three photos of ten are not photos; the others must not fail."""

from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "Hostile", "Shopper"]


class Hostile(Scenario):
    bad_share = 0.3

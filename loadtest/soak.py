"""`locust -f loadtest/soak.py --seconds 14400`: steady, for as long as a leak needs to show."""

from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "Shopper", "Soak"]


class Soak(Scenario):
    pass

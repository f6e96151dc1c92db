"""`locust -f loadtest/soak.py --seconds 14400`: the same load for hours, so that leaks show."""

from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "Shopper", "Soak"]


class Soak(Scenario):
    pass

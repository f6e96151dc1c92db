"""`locust -f loadtest/sale_day.py`: a day's 24 hours in the time of the run."""

from loadtest.levels import sale_day
from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "SaleDay", "Shopper"]


class SaleDay(Scenario):
    level = staticmethod(sale_day)

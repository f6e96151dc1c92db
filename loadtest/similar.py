"""`locust -f loadtest/similar.py`: searches for similar products, a third of them with a filter.

The service needs a catalogue, as `make demo` has one.
"""

from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "Shopper", "Similar"]


class Similar(Scenario):
    searches = True

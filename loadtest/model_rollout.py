"""`locust -f loadtest/model_rollout.py --rollout 'serve deploy …'`: another model in the middle.

The scenario runs the command after a third of the time. The report says how many requests each
version answered, and whether a request was lost.
"""

from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "ModelRollout", "Shopper"]


class ModelRollout(Scenario):
    needs = ("rollout",)

"""`locust -f loadtest/model_rollout.py --rollout 'serve deploy …'`: another model in the middle.

The command is run after a third of the time; the report tells which version answered how many,
and whether a request was lost.
"""

from loadtest.scenario import Arrivals, Scenario, Shopper

__all__ = ["Arrivals", "ModelRollout", "Shopper"]


class ModelRollout(Scenario):
    needs = ("rollout",)

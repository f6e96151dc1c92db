"""Which replica a group goes to: the one with the fewest calls in flight from this caller.

Serve's own router takes the shorter of two queues, by the lengths that replicas report. Over gRPC
a caller gets such a report when a call ends, with the length at the time the call came (the
initial metadata of a unary call, Ray 2.60). That is too late to choose by. A caller knows its own
calls at once, and when every caller spreads its calls evenly, the load is even.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import (
    FIFOMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from deployments.pipeline import replicas as replicas_module


class FewestCalls(FIFOMixin, RequestRouter):
    """Counts the calls that each replica has not answered yet; chooses at random among equals.

    It routes the calls that go by Serve's handle, and hands Serve's list of replicas to those that
    go by the data plane.
    """

    def initialize_state(self, **_: Any) -> None:
        self._in_flight: Counter[ReplicaID] = Counter()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        metadata = {each.replica_id.unique_id: each.replica_metadata for each in replicas}
        # By its module: Serve pickles this class by value, with copies of the globals it uses.
        replicas_module.publish(self._deployment_id, metadata)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,  # noqa: ARG002
    ) -> list[list[RunningReplica]]:
        """The best one; any, should that one be full."""
        best = min(
            candidate_replicas,
            key=lambda replica: (self._in_flight[replica.replica_id], random.random()),  # noqa: S311
        )
        return [[best], candidate_replicas]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        super().on_send_request(replica_id)
        self._in_flight[replica_id] += 1

    def on_request_completed(
        self,
        replica_id: ReplicaID,
        internal_request_id: str,  # noqa: ARG002
    ) -> None:
        """Called however the call ended."""
        self._in_flight[replica_id] -= 1
        if not self._in_flight[replica_id]:
            del self._in_flight[replica_id]  # a replica that was replaced never comes back


ROUTER = RequestRouterConfig(
    request_router_class="deployments.pipeline.routing:FewestCalls"  # type: ignore[arg-type]
)

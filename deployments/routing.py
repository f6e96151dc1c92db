"""Which replica a group goes to: the one with the fewest of this caller's calls under way.

Serve's own router takes the shorter of two queues, by what replicas tell of their lengths. Over
gRPC it is told with the end of a call how long the queue was when the call came (the initial
metadata of a unary call, Ray 2.60): too late to choose by. What it has under way itself a caller
knows at once, and where every caller spreads its own calls evenly, all are spread evenly.
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


class FewestCalls(FIFOMixin, RequestRouter):
    """Counts what each replica was sent and has not answered; among equals, chance decides."""

    def initialize_state(self, **_: Any) -> None:
        self._under_way: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,  # noqa: ARG002
    ) -> list[list[RunningReplica]]:
        """The best one, then, should it be full, any."""
        best = min(
            candidate_replicas,
            key=lambda replica: (self._under_way[replica.replica_id], random.random()),  # noqa: S311
        )
        return [[best], candidate_replicas]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        super().on_send_request(replica_id)
        self._under_way[replica_id] += 1

    def on_request_completed(
        self,
        replica_id: ReplicaID,
        internal_request_id: str,  # noqa: ARG002
    ) -> None:
        """Whatever became of it."""
        self._under_way[replica_id] -= 1
        if not self._under_way[replica_id]:
            del self._under_way[replica_id]  # it may never be seen again


ROUTER = RequestRouterConfig(
    request_router_class="deployments.routing:FewestCalls"  # type: ignore[arg-type]
)

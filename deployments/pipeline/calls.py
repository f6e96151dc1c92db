"""Calls from one deployment to another, and their retry when a replica dies.

Groups go by the data plane, a frame each way, which costs less than a call by Serve's handle. The
handle is the way for everything else, and for groups while no replica is connected.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.errors import Unavailable
from deployments.messages import GroupAnswers
from deployments.pipeline.replicas import NotSent, ReplicaLost, Replicas
from deployments.pipeline.wire import Encode

_TRIES = 3
_UNAVAILABLE = "no replica that classifies is available; try again"


def connect(handle: DeploymentHandle[Any], method: str) -> Any:
    """The handle of one method, over gRPC and plain pickle, which cost the caller the least."""
    return handle.options(
        method_name=method,
        _by_reference=False,
        request_serialization="pickle",
        response_serialization="pickle",
    )


class Target:
    """One method of a deployment, which takes groups.

    Args:
        encode: writes a group as a frame.
    """

    def __init__(self, handle: DeploymentHandle[Any], method: str, encode: Encode) -> None:
        self._method, self._encode = connect(handle, method), encode
        self._replicas = Replicas(handle.deployment_id)

    async def __call__(self, group: Any) -> GroupAnswers:
        """Answer a group; tries other replicas when one is lost.

        While Serve lists no replica it waits, so callers set a time limit.

        Raises:
            Unavailable: no replica answered.
        """
        for _ in range(_TRIES):
            with suppress(ReplicaLost):
                return await self.once(group)
        raise Unavailable(_UNAVAILABLE)

    async def once(self, group: Any) -> GroupAnswers:
        """Answer a group by one replica, by the data plane or else by Serve's handle.

        Raises:
            ReplicaLost: the replica was lost, perhaps before the group reached it.
            Unavailable: no replica answered.
        """
        while replica := self._replicas.choose():
            with suppress(NotSent):
                return await replica.call(self._encode, group)
        try:
            answers: GroupAnswers = await self._method.remote(group)
        except RayActorError as error:
            raise ReplicaLost(str(error)) from error
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise Unavailable(_UNAVAILABLE) from error
        return answers

    async def once_connected(self, group: Any) -> GroupAnswers:
        """Answer a group by one replica that is connected; waits for one.

        Raises:
            ReplicaLost: the replica was lost after the group was sent.
        """
        while True:
            replica = await self._replicas.connected()
            with suppress(NotSent):
                return await replica.call(self._encode, group)


async def call(method: Any, *arguments: Any) -> Any:
    """Call a connected method, and retry once on another replica when the first one dies.

    A retry is safe, since classification has no side effects.

    Raises:
        Unavailable: no replica answered.
    """
    try:
        try:
            return await method.remote(*arguments)
        except RayActorError:
            return await method.remote(*arguments)
    except (RayActorError, BackPressureError, DeploymentUnavailableError) as error:
        raise Unavailable(_UNAVAILABLE) from error

"""Calls from one deployment to another, and their retry when a replica dies.

Groups go by the data plane, a frame each way, which costs less than a call by Serve's handle. The
handle is the way for everything else, and for groups while no replica is connected, or after two
were lost.
"""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.errors import Unavailable
from deployments.messages import GroupAnswers
from deployments.pipeline.replicas import ReplicaLost, Replicas
from deployments.pipeline.wire import Encode

_TRIES = 2


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
        """Answer a group; tries another replica when the first one is lost.

        While Serve lists no replica it waits, so callers set a time limit.

        Raises:
            Unavailable: no replica answered.
        """
        replica = self._replicas.choose()
        for _ in range(_TRIES):
            if replica is None:
                break
            try:
                return await replica.call(self._encode, group)
            except ReplicaLost:
                replica = self._replicas.choose(other_than=replica)
        answers: GroupAnswers = await call(self._method, group)
        return answers


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
        raise Unavailable("no replica that classifies is available; try again") from error

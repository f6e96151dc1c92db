"""Calls from one deployment to another, and their retry when a replica dies."""

from __future__ import annotations

from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.errors import Unavailable


def connect(handle: DeploymentHandle[Any], method: str) -> Any:
    """The handle of one method, over gRPC and plain pickle, which cost the caller the least."""
    return handle.options(
        method_name=method,
        _by_reference=False,
        request_serialization="pickle",
        response_serialization="pickle",
    )


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

"""Calls from one deployment to another, and their retry when a replica dies.

Groups go by the data plane, a frame each way, which costs less than a call by Serve's handle. The
handle is the way for everything else, and for groups while no replica is connected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.errors import Unavailable
from deployments.messages import Change, GroupAnswers, Search
from deployments.pipeline.replicas import NotSent, ReplicaLost, Replicas
from deployments.pipeline.wire import PROTOCOL, Encode, decode_answers

_TRIES = 3
_OTHER_PROTOCOL_S = 0.1
_UNAVAILABLE = "no replica that can answer is available; try again"


def connect(handle: DeploymentHandle[Any], method: str) -> Any:
    """The handle of one method, over gRPC and plain pickle, which cost the caller the least."""
    return handle.options(
        method_name=method,
        _by_reference=False,
        request_serialization="pickle",
        response_serialization="pickle",
    )


class Target:
    """A deployment that takes groups.

    Args:
        handle: of a deployment with a `Listener`, whose `answer_frame` it has.
        encode: writes a group as a frame.
    """

    def __init__(self, handle: DeploymentHandle[Any], encode: Encode) -> None:
        self._answer_frame, self._encode = connect(handle, "answer_frame"), encode
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

        While only replicas of another protocol are there, it waits for a roll-out to end, so
        callers set a time limit.

        Raises:
            ReplicaLost: the replica was lost, perhaps before the group reached it.
            Unavailable: no replica answered.
        """
        while True:
            while replica := self._replicas.choose():
                with suppress(NotSent):
                    return await replica.call(self._encode, group)
            head, payload = self._encode(group)
            try:
                reply = await self._answer_frame.remote(PROTOCOL, head, b"".join(payload))
            except RayActorError as error:
                raise ReplicaLost(str(error)) from error
            except (BackPressureError, DeploymentUnavailableError) as error:
                raise Unavailable(_UNAVAILABLE) from error
            if reply is not None:
                return decode_answers(reply[0], memoryview(reply[1]))
            await asyncio.sleep(_OTHER_PROTOCOL_S)

    async def once_connected(self, group: Any) -> GroupAnswers:
        """Answer a group by one replica that is connected; waits for one.

        Raises:
            ReplicaLost: the replica was lost after the group was sent.
        """
        while True:
            replica = await self._replicas.connected()
            with suppress(NotSent):
                return await replica.call(self._encode, group)


class SimilarClient:
    """The deployment of similar products, as the ingress calls it.

    Its methods raise Unavailable if no replica answers. A change that is repeated by another
    replica does no harm.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._methods = {
            name: connect(handle, name)
            for name in ("search", "change", "get", "picture", "describe")
        }

    async def search(self, search: Search) -> bytes | Exception:
        return cast("bytes | Exception", await call(self._methods["search"], search))

    async def change(self, changes: Sequence[Change]) -> list[str | Exception]:
        return cast("list[str | Exception]", await call(self._methods["change"], changes))

    async def get(self, name: str) -> bytes | Exception:
        return cast("bytes | Exception", await call(self._methods["get"], name))

    async def picture(self, name: str) -> bytes | Exception:
        return cast("bytes | Exception", await call(self._methods["picture"], name))

    async def describe(self) -> bytes | Exception:
        return cast("bytes | Exception", await call(self._methods["describe"]))


async def call(method: Any, *arguments: Any) -> Any:
    """Call a connected method, and retry once on another replica when the first one dies.

    A retry is safe, since what is called may be done twice.

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

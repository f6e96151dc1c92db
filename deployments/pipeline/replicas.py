"""The caller's side of the data plane: the replicas of a deployment, and one connection to each."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Any

from deployments.messages import GroupAnswers
from deployments.pipeline.connection import GOODBYE, Connection
from deployments.pipeline.wire import Encode, decode_answers

logger = logging.getLogger("ray.serve")

_CONNECTED_WITHIN_S = 2.0
_RETRY_EVERY_S = 1.0

_FOLLOWERS: dict[Hashable, list[Replicas]] = defaultdict(list)  # of this process


def publish(deployment: Hashable, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Hand on Serve's list of a deployment: replica -> its metadata. From any thread."""
    for follower in _FOLLOWERS[deployment]:
        follower.update(metadata)


class ReplicaLost(ConnectionError):
    """The connection broke before the answer came; the group may go to another replica."""


class Replica:
    """One connection to a replica; calls share it.

    Attributes:
        leaving: whether the replica said goodbye.
        lost: set when the connection is gone.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self._pending: dict[int, asyncio.Future[GroupAnswers]] = {}
        self._numbers = itertools.count()
        self._connection: Connection | None = None
        self.leaving = False
        self.lost = asyncio.Event()

    async def connect(self) -> None:
        """Raises OSError or TimeoutError when the replica can't be reached."""
        secret = bytes.fromhex(self._metadata["secret"])
        async with asyncio.timeout(_CONNECTED_WITHIN_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(secret, self._on_frame, self._on_lost, listens=False),
                self._metadata["host"], self._metadata["port"],
            )  # fmt: skip
        self._connection = connection

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    @property
    def takes_new(self) -> bool:
        """Whether a call can be sent."""
        connection = self._connection
        return connection is not None and not connection.is_closing and not self.leaving

    async def call(self, encode: Encode, group: Any) -> GroupAnswers:
        """Send a group and wait for its answers.

        Raises:
            ReplicaLost: the connection broke.
        """
        connection = self._connection
        if connection is None:
            raise ReplicaLost("not connected")
        await connection.writable()
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            connection.send(number, *encode(group))
            answers: GroupAnswers = await future
            return answers
        except ConnectionError as error:
            raise ReplicaLost(str(error)) from error
        finally:
            self._pending.pop(number, None)

    def close(self) -> None:
        """Close the connection; what is in flight is lost."""
        if self._connection is not None:
            self._connection.close()

    def _on_frame(
        self, connection: Connection, call: int, head: memoryview, payload: memoryview
    ) -> None:
        del connection
        if call == GOODBYE:
            self.leaving = True
            return
        future = self._pending.get(call)
        if future is not None and not future.done():  # else its deadline has passed
            future.set_result(decode_answers(head, payload))

    def _on_lost(self, connection: Connection) -> None:
        del connection
        self.lost.set()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ReplicaLost("the connection to the replica broke"))


class Replicas:
    """The replicas of one deployment that Serve lists, for callers in one event loop.

    A replica that is not listed gets nothing new, but finishes what it has: Serve also leaves out
    replicas that load a new user_config.

    Args:
        deployment: its id in Serve. The lists come once a handle of it has been used.
    """

    def __init__(self, deployment: Hashable) -> None:
        self._loop = asyncio.get_running_loop()
        _FOLLOWERS[deployment].append(self)
        self._replicas: dict[str, Replica] = {}
        self._listed: frozenset[str] = frozenset()
        self._connecting: dict[str, asyncio.Task[None]] = {}

    def update(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over Serve's list: replica -> its metadata. From any thread."""
        self._loop.call_soon_threadsafe(self._update, metadata, context=contextvars.Context())

    def choose(self, *, other_than: Replica | None = None) -> Replica | None:
        """The listed replica with the fewest calls in flight from here; None when none is ready."""
        ready = [
            replica
            for name in self._listed
            if (replica := self._replicas.get(name)) and replica.takes_new
            and replica is not other_than
        ]  # fmt: skip
        return min(ready, key=lambda each: (each.in_flight, random.random()), default=None)  # noqa: S311

    def _update(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        self._listed = frozenset(metadata)
        for name, each in metadata.items():
            if each and name not in self._connecting:
                self._connecting[name] = self._loop.create_task(self._connect(name, each))
        for name, replica in self._replicas.items():
            if name not in self._listed and not replica.in_flight:
                replica.close()

    async def _connect(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Keep a connection to a replica for as long as it is listed."""
        tries = itertools.count()
        while name in self._listed:
            replica = Replica(metadata)
            try:
                await replica.connect()
            except (OSError, TimeoutError) as error:
                if next(tries) == 0:
                    why = error or type(error).__name__
                    logger.warning("groups for replica %s go by Serve's handle: %s", name, why)
            else:
                self._replicas[name] = replica
                await replica.lost.wait()
                del self._replicas[name]
            await asyncio.sleep(_RETRY_EVERY_S)
        del self._connecting[name]

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

Listed = Mapping[str, Mapping[str, Any]]  # Serve's list of a deployment: replica -> metadata

# Of this process: who follows a deployment's list, and the last list.
_FOLLOWERS: dict[Hashable, list[Replicas]] = defaultdict(list)
_LISTED: dict[Hashable, Listed] = {}


def publish(deployment: Hashable, listed: Listed) -> None:
    """Hand on Serve's list of a deployment. From any thread."""
    _LISTED[deployment] = listed
    followers = _FOLLOWERS[deployment]  # changed in place: another thread may add to it
    for follower in list(followers):
        if follower.is_over:
            followers.remove(follower)
        else:
            follower.update(listed)


class ReplicaLost(ConnectionError):
    """The connection broke before the answer came; the group may go to another replica.

    Attributes:
        begun: the photo of a careful group that was decoded then; None if none was.
    """

    begun: int | None = None


class NotSent(ReplicaLost):
    """The connection was gone before the group was sent."""


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
        self._begun: dict[int, int] = {}  # call -> number of the photo that is decoded
        self._connection: Connection | None = None
        self.leaving = False
        self.lost = asyncio.Event()

    async def connect(self) -> None:
        """Connect, and wait until the replica has answered the greeting.

        Raises:
            OSError: it can't be reached, or takes another protocol or secret.
            TimeoutError: it does not answer.
            KeyError, TypeError, ValueError: the metadata is not that of a listener.
        """
        connection = Connection(
            bytes.fromhex(self._metadata["secret"]), self._on_frame, self._on_lost, listens=False
        )
        try:
            async with asyncio.timeout(_CONNECTED_WITHIN_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection, self._metadata["host"], self._metadata["port"]
                )
                await connection.greeted.wait()
            if connection.is_closing:
                raise ConnectionError("it takes another protocol or secret")
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    @property
    def in_flight(self) -> int:
        """Calls without an answer. One that was given up counts until its answer comes.

        So a replica that hangs does not look idle.
        """
        return len(self._pending)

    @property
    def is_blocked(self) -> bool:
        """Whether a call would first wait for the replica to read what was sent before."""
        return self._connection is not None and not self._connection.is_writable

    @property
    def takes_new(self) -> bool:
        """Whether a call can be sent."""
        connection = self._connection
        return connection is not None and not connection.is_closing and not self.leaving

    async def call(self, encode: Encode, group: Any) -> GroupAnswers:
        """Send a group and wait for its answers.

        Raises:
            NotSent: the connection is gone.
            ReplicaLost: it broke before the answer came.
            ValueError: the group is over the limit of a frame.
        """
        connection = self._connection
        if connection is None:
            raise NotSent("not connected")
        await connection.writable()
        number = next(self._numbers)
        try:
            connection.send(number, *encode(group))
        except ConnectionError as error:
            raise NotSent(str(error)) from error
        future = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            answers: GroupAnswers = await future
        except ReplicaLost as lost:
            lost.begun = self._begun.get(number)
            raise
        finally:
            self._begun.pop(number, None)
        return answers

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
        if not head:
            if payload:
                self._begun[call] = int.from_bytes(payload)
            else:
                self._begun.pop(call, None)
            return
        answers = decode_answers(head, payload)
        future = self._pending.pop(call, None)
        if future is not None and not future.done():  # else the caller has given up
            future.set_result(answers)

    def _on_lost(self, connection: Connection) -> None:
        del connection
        self.lost.set()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(ReplicaLost("the connection to the replica broke"))
        self._pending.clear()


class Replicas:
    """The replicas of one deployment that Serve lists, for callers in one event loop.

    A replica that is not listed gets nothing new, but finishes what it has, and keeps its
    connection meanwhile: Serve also leaves out replicas that load a new user_config.

    Args:
        deployment: its id in Serve. Its list comes once a handle of it has been used, as the
            readiness probe and the question for the image size do.
    """

    def __init__(self, deployment: Hashable) -> None:
        self._loop = asyncio.get_running_loop()
        _FOLLOWERS[deployment].append(self)
        self._replicas: dict[str, Replica] = {}
        self._listed: frozenset[str] = frozenset()
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()  # another one for each replica that connects
        self.update(_LISTED.get(deployment, {}))

    @property
    def is_over(self) -> bool:
        """Whether its event loop is closed."""
        return self._loop.is_closed()

    def update(self, listed: Listed) -> None:
        """Take over Serve's list. From any thread."""
        self._loop.call_soon_threadsafe(self._update, listed, context=contextvars.Context())

    async def connected(self) -> Replica:
        """As choose, but wait until one is ready."""
        while (replica := self.choose()) is None:
            await self._changed.wait()
        return replica

    def choose(self) -> Replica | None:
        """The listed replica with the fewest calls in flight from here; None when none is ready."""
        ready = [
            replica
            for name in self._listed
            if (replica := self._replicas.get(name)) and replica.takes_new
        ]  # fmt: skip
        return min(
            ready,
            key=lambda each: (each.is_blocked, each.in_flight, random.random()),  # noqa: S311
            default=None,
        )

    def _update(self, listed: Listed) -> None:
        self._listed = frozenset(listed)
        for name, each in listed.items():
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
            except (OSError, TimeoutError, KeyError, TypeError, ValueError) as error:
                if next(tries) == 0:
                    why = str(error) or type(error).__name__
                    logger.warning("groups for replica %s go by Serve's handle: %s", name, why)
            else:
                self._replicas[name] = replica
                self._changed.set()
                self._changed = asyncio.Event()
                await replica.lost.wait()
                del self._replicas[name]
            await asyncio.sleep(_RETRY_EVERY_S)
        del self._connecting[name]

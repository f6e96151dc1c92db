"""Work-conserving batching: whenever a slot is free, it takes what waits.

The one place where single items become batches; it knows nothing of photos, models or Ray.
It never waits by the clock for a batch to fill: while every slot is busy, items gather, and
the fuller the load, the fuller the batches.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from deployments.errors import ClientLeft, DeadlinePassed, Overloaded, ShuttingDown

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# Whoever waits is woken a few a turn of the loop: all at once, their work would hold up the call
# of the batch that starts next.
_ANSWERS_A_TURN = 4
# A batch that runs for longer than this no longer holds back a smaller one beside it.
_PATIENCE_S = 0.1


@dataclass(frozen=True)
class Bounds:
    """What a batcher may hold.

    Attributes:
        items: items of one batch at the most.
        size_bytes: bytes of one batch at the most; a larger item goes alone.
        in_flight: batches that run at the same time.
        waiting: items that may wait; one more is refused.
    """

    items: int
    size_bytes: int
    in_flight: int
    waiting: int


@dataclass(frozen=True)
class _Waiting(Generic[Item]):
    item: Item
    size_bytes: int
    deadline: float
    since: float
    client_left: Callable[[], bool]


class _Running(NamedTuple):
    items: int
    since: float


class Batcher(Generic[Item, Answer]):
    """Runs items in batches, first come, first served; every item gets its own answer or error.

    Belongs to one event loop and is not thread-safe.

    Args:
        run: takes the items of a batch and returns as many answers, in their order; an answer
            that is an exception is raised to the one who submitted that item. What `run` itself
            raises, every item of the batch gets.
        observe: told of each batch that starts: its items, and the seconds its first one waited.
        clock: seconds, monotonic; what deadlines are measured on.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Answer | Exception]]],
        bounds: Bounds,
        observe: Callable[[int, float], None] = lambda _items, _waited_s: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._bounds = bounds
        self._observe = observe
        self._clock = clock
        self._waiting: OrderedDict[asyncio.Future[Answer], _Waiting[Item]] = OrderedDict()
        self._in_flight: list[_Running] = []
        self._tasks: set[asyncio.Task[None]] = set()  # of batches that run or are being answered
        self._wake_up: asyncio.Handle | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Items that wait or are in a batch that is running."""
        return len(self._waiting) + sum(running.items for running in self._in_flight)

    @property
    def in_flight(self) -> int:
        """Batches that are running."""
        return len(self._in_flight)

    def submit(
        self,
        item: Item,
        *,
        size_bytes: int = 0,
        deadline: float = float("inf"),
        client_left: Callable[[], bool] = lambda: False,
    ) -> asyncio.Future[Answer]:
        """Queue one item; cancel the future to take it back before its batch starts.

        Args:
            deadline: on the batcher's clock. An item still waiting then is never run: its future
                raises DeadlinePassed when a batch would have taken it. Who needs to know
                earlier waits on the future with a timeout.
            client_left: asked when a batch would take the item; one that nobody waits for any
                more is never run either, and its future raises ClientLeft.

        Returns:
            A future that raises what `run` answers; Overloaded where as many items wait as may;
            ShuttingDown where the batcher was closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if self._closed:
            future.set_exception(ShuttingDown("this replica is shutting down; try again"))
            return future
        if len(self._waiting) >= self._bounds.waiting:
            text = f"{len(self._waiting)} photos are waiting already; try again later"
            future.set_exception(Overloaded(text))
            return future
        self._waiting[future] = _Waiting(item, size_bytes, deadline, self._clock(), client_left)
        future.add_done_callback(self._forget)
        if self._wake_up is None and self._may_start():
            # At the end of this turn of the loop, so that what arrives together goes together.
            # In an empty context: a batch belongs to no single request, and must not be
            # cancelled with the request that happened to open it (Serve cancels by context).
            self._wake_up = loop.call_soon(self._start, context=contextvars.Context())
        return future

    async def close(self) -> None:
        """Refuse new items, run those that wait, return when the last is answered."""
        self._closed = True
        while self._waiting or self._tasks:
            if self._tasks:
                await asyncio.wait(self._tasks)
            else:
                await asyncio.sleep(0)

    def _forget(self, future: asyncio.Future[Answer]) -> None:
        self._waiting.pop(future, None)

    def _may_start(self) -> bool:
        """Whether a slot is free, and enough wait to fill their share of the slots.

        Were a batch to start with less beside others, it would be a crumb: the first few of the
        items that follow the answers just given, at the price of a whole batch. One that hangs
        counts no longer, so that what waits beside it is not held up.
        """
        others = self._bounds.in_flight - 1
        if not self._waiting or len(self._in_flight) > others:
            return False
        waiting, lately = len(self._waiting), self._clock() - _PATIENCE_S
        beside = sum(running.items for running in self._in_flight if running.since > lately)
        return waiting >= self._bounds.items or waiting * others >= beside

    def _start(self) -> None:
        self._wake_up = None
        while self._may_start():
            batch = self._take()
            if batch:
                running = _Running(len(batch), self._clock())
                self._in_flight.append(running)
                task = asyncio.get_running_loop().create_task(
                    self._run_batch(batch, running), context=contextvars.Context()
                )
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard, context=contextvars.Context())

    def _take(self) -> list[tuple[asyncio.Future[Answer], Item]]:
        """Remove the next batch from those that wait; what expired is told so, not run."""
        now, size_bytes, waited_s = self._clock(), 0, 0.0
        batch: list[tuple[asyncio.Future[Answer], Item]] = []
        while self._waiting and len(batch) < self._bounds.items:
            future, waiting = self._waiting.popitem(last=False)
            if future.done():  # taken back in this very turn of the loop
                continue
            if waiting.deadline <= now:
                future.set_exception(DeadlinePassed("the deadline passed while waiting; try again"))
            elif waiting.client_left():
                future.set_exception(ClientLeft("the client left while its photo waited"))
            elif batch and size_bytes + waiting.size_bytes > self._bounds.size_bytes:
                self._waiting[future] = waiting
                self._waiting.move_to_end(future, last=False)
                break
            else:
                size_bytes += waiting.size_bytes
                waited_s = max(waited_s, now - waiting.since)
                batch.append((future, waiting.item))
        if batch:
            self._observe(len(batch), waited_s)
        return batch

    async def _run_batch(
        self, batch: list[tuple[asyncio.Future[Answer], Item]], running: _Running
    ) -> None:
        """Run a batch, free its slot, answer its items; on whatever way it ends, none is left."""
        answers: Sequence[Answer | Exception]
        patience = asyncio.get_running_loop().call_later(_PATIENCE_S, self._start)
        try:
            try:
                answers = await self._run([item for _, item in batch])
                if len(answers) != len(batch):
                    raise RuntimeError(f"{len(answers)} answers to a batch of {len(batch)}")
            except Exception as error:  # whoever waits for an answer is told what became of it
                answers = [error] * len(batch)
            finally:
                patience.cancel()
                self._in_flight.remove(running)
                self._start()
            for number, ((future, _), answer) in enumerate(zip(batch, answers, strict=True), 1):
                if future.done():  # its client left meanwhile
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
                if number % _ANSWERS_A_TURN == 0:
                    await asyncio.sleep(0)
        finally:
            for future, _ in batch:
                future.cancel()

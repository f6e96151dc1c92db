"""Batches single items, first come, first served. Knows nothing of photos, models, HTTP or Ray.

A batch starts when a slot is free and enough items wait: one that fills the batch, or as many as
the share of the other slots that are busy. A smaller batch beside others would cost a whole call
for a few items, so it waits until another batch ends, or for 0.1 s. With one slot the batcher
never waits: a free slot takes whatever is there, and busy slots let batches grow with the load.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from deployments.errors import DeadlinePassed, Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")

# Wake four callers per loop iteration. Waking all of them at once would delay the next batch.
_RESULTS_PER_ITERATION = 4
# A batch that has run for longer than this no longer holds back a smaller one beside it.
_PATIENCE_S = 0.1


@dataclass(frozen=True)
class BatchLimits:
    """What a batcher may hold.

    Attributes:
        max_items: items of one batch.
        max_bytes: bytes of one batch; a larger item goes alone.
        max_in_flight: batches that run at the same time.
        max_waiting: items that may wait; one more is refused.
    """

    max_items: int
    max_bytes: int
    max_in_flight: int
    max_waiting: int


class _Waiting(NamedTuple, Generic[Item]):
    item: Item
    size_bytes: int
    deadline: float
    since: float


class _Running(NamedTuple):
    items: int
    since: float


class Batcher(Generic[Item, Result]):
    """Runs items in batches; every item gets a result or an error of its own.

    Belongs to one event loop and is not thread-safe.

    Args:
        run: takes the items of a batch and returns as many results, in their order. A result that
            is an exception is raised to the caller that submitted the item. If `run` itself
            raises, every item of the batch gets that exception.
        observe: called for each batch that starts, with its number of items and the seconds that
            the first of them waited.
        clock: seconds, monotonic; deadlines are on it.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        limits: BatchLimits,
        observe: Callable[[int, float], None] = lambda _items, _waited_s: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._limits = limits
        self._observe = observe
        self._clock = clock
        self._waiting: OrderedDict[asyncio.Future[Result], _Waiting[Item]] = OrderedDict()
        self._in_flight: list[_Running] = []
        self._tasks: set[asyncio.Task[None]] = set()  # of batches whose items have no result yet
        self._wake_up: asyncio.Handle | None = None

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Items that wait or are in a running batch."""
        return len(self._waiting) + sum(running.items for running in self._in_flight)

    @property
    def in_flight(self) -> int:
        """Batches that are running."""
        return len(self._in_flight)

    def submit(
        self, item: Item, *, size_bytes: int = 0, deadline: float = float("inf")
    ) -> asyncio.Future[Result]:
        """Queue one item. A caller takes it back by finishing the future before its batch starts.

        Args:
            deadline: on the batcher's clock. An item that still waits then is never run: its
                future raises DeadlinePassed when a batch would have taken it.

        Returns:
            A future of the result. It raises Overloaded when the queue is full.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        if len(self._waiting) >= self._limits.max_waiting:
            text = f"the queue is full, {len(self._waiting)} are waiting; try again later"
            future.set_exception(Overloaded(text))
            return future
        self._waiting[future] = _Waiting(item, size_bytes, deadline, self._clock())
        future.add_done_callback(self._forget)
        if self._wake_up is None and self._may_start():
            # At the end of this loop iteration, so that items that arrive together go together.
            # In an empty context: Serve cancels by context, and the request that happens to open
            # a batch must not take the batch with it.
            self._wake_up = loop.call_soon(self._start, context=contextvars.Context())
        return future

    def _forget(self, future: asyncio.Future[Result]) -> None:
        self._waiting.pop(future, None)

    def _may_start(self) -> bool:
        """Whether a slot is free and enough items wait; see the header.

        A batch that has run for longer than _PATIENCE_S does not count as busy.
        """
        other_slots = self._limits.max_in_flight - 1
        if not self._waiting or len(self._in_flight) > other_slots:
            return False
        waiting, lately = len(self._waiting), self._clock() - _PATIENCE_S
        running = sum(batch.items for batch in self._in_flight if batch.since > lately)
        return waiting >= self._limits.max_items or waiting * other_slots >= running

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

    def _take(self) -> list[tuple[asyncio.Future[Result], Item]]:
        """Remove the next batch from the queue; expired items get DeadlinePassed instead."""
        now, size_bytes, waited_s = self._clock(), 0, 0.0
        batch: list[tuple[asyncio.Future[Result], Item]] = []
        while self._waiting and len(batch) < self._limits.max_items:
            future, waiting = self._waiting.popitem(last=False)
            if future.done():  # taken back in this very loop iteration
                continue
            if waiting.deadline <= now:
                future.set_exception(DeadlinePassed("the deadline passed while waiting; try again"))
            elif batch and size_bytes + waiting.size_bytes > self._limits.max_bytes:
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
        self, batch: list[tuple[asyncio.Future[Result], Item]], running: _Running
    ) -> None:
        """Run a batch, free its slot, hand out its results. No item is left without one."""
        results: Sequence[Result | Exception]
        patience = asyncio.get_running_loop().call_later(_PATIENCE_S, self._start)
        try:
            try:
                results = await self._run([item for _, item in batch])
                if len(results) != len(batch):
                    raise RuntimeError(f"{len(results)} results for a batch of {len(batch)}")
            except Exception as error:  # every caller learns why it has no result
                results = [error] * len(batch)
            finally:
                patience.cancel()
                self._in_flight.remove(running)
                self._start()
            for number, ((future, _), result) in enumerate(zip(batch, results, strict=True), 1):
                if future.done():  # taken back while its batch ran
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
                if number % _RESULTS_PER_ITERATION == 0:
                    await asyncio.sleep(0)
        finally:
            for future, _ in batch:
                future.cancel()

"""Batches items, first come, first served. Knows nothing of photos, models, HTTP or Ray.

A batch starts when a slot is free and enough items wait: one that fills the batch, or as many, but
one, as the share of the other slots that are busy. A smaller batch beside others would cost a whole
call for a few items, so it waits until another batch ends, or for 0.1 s. A batch takes no more than
its slot's share of all items that are held, so that batches side by side are of one size. With one
slot the batcher never waits: a free slot takes whatever is there, and busy slots let batches grow
with the load.
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
from deployments.pipeline.pace import Pace

Item = TypeVar("Item")
Result = TypeVar("Result")

# Wake four callers per loop iteration. Waking all of them at once would delay the next batch.
_RESULTS_PER_ITERATION = 4
# A batch that has run for longer than this no longer holds back a smaller one beside it.
_PATIENCE_S = 0.1
# After an outage, items may wait for as long as it was, and for 0.2 s less with each second. A
# service that is used to 80% catches up that fast.
_CATCH_UP = 0.2
# What a queue that was short a moment ago gathers is a burst, not an overload: another replica
# starts, say, and takes cores for seconds. Items may wait this many times as long at first, and as
# ever after so many seconds. The next burst begins with a queue that has refused nothing for as
# long, and where items wait for no more than this part of the limit.
_BURST = 4.0
_BURST_S = 10.0
_SHORT = 0.1


@dataclass(frozen=True)
class BatchLimits:
    """What a batcher may hold.

    Attributes:
        max_items: items of one batch.
        max_bytes: bytes of one batch; a larger item goes alone.
        max_in_flight: batches that run at the same time.
        max_waiting: items that may wait; one more is refused.
        max_wait_s: seconds that an item may have to wait, as far as can be told when it comes.
            In a burst, while nothing moves, and until what has gathered meanwhile is gone, items
            may wait longer.
        max_waiting_bytes: bytes of the items that may wait; one more is refused.
    """

    max_items: int
    max_bytes: int
    max_in_flight: int
    max_waiting: int
    max_wait_s: float = float("inf")
    max_waiting_bytes: float = float("inf")


class _Waiting(NamedTuple, Generic[Item]):
    item: Item
    items: int
    size_bytes: int
    deadline: float
    since: float


class _Running(NamedTuple):
    items: int
    since: float
    full_s: float  # as Pace had it at the start


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
        self._waiting_count = self._waiting_bytes = 0
        self._pace = Pace(limits.max_in_flight)
        self._stall_s, self._stall_ended = 0.0, float("-inf")
        self._burst_began = self._refused_at = float("-inf")
        self._in_flight: list[_Running] = []
        self._tasks: set[asyncio.Task[None]] = set()  # of batches whose items have no result yet
        self._wake_up: asyncio.Handle | None = None

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return self._waiting_count

    @property
    def held(self) -> int:
        """Items that wait or are in a running batch."""
        return self._waiting_count + sum(running.items for running in self._in_flight)

    @property
    def in_flight(self) -> int:
        """Batches that are running."""
        return len(self._in_flight)

    def refusal(self) -> Overloaded | None:
        """Why an item that came now would be refused; None if it would not be."""
        if full := self._full():
            return full
        limits, now = self._limits, self._clock()
        wait_s = self.expected_wait_s()
        if wait_s <= _SHORT * limits.max_wait_s and now - self._refused_at > _BURST_S:
            self._burst_began = now
        if wait_s > self._most_wait_s(now):
            self._refused_at = now
            return Overloaded(f"the wait would be about {wait_s:.1f} s; try again later")
        return None

    def _full(self) -> Overloaded | None:
        waiting, limits = self._waiting_count, self._limits
        if waiting >= limits.max_waiting or self._waiting_bytes >= limits.max_waiting_bytes:
            return Overloaded(f"the queue is full, {waiting} are waiting; try again later")
        return None

    def expected_wait_s(self) -> float:
        """How long an item that came now would wait.

        As many items as wait now, at the pace of late; or as long as the oldest has waited, if
        that is longer, since the pace says nothing while nothing moves.
        """
        if not self._waiting:
            return 0.0
        oldest = next(iter(self._waiting.values()))
        expected_s = self._waiting_count * self._pace.seconds_per_item
        return max(expected_s, self._clock() - oldest.since)

    def _most_wait_s(self, now: float) -> float:
        """How long an item that comes now may have to wait.

        A queue that stands still is an outage, not an overload: items wait for its end.
        """
        max_wait_s = self._limits.max_wait_s
        if self._pace.is_stalled(now, max_wait_s):
            return float("inf")
        burst = max(0.0, 1 - (now - self._burst_began) / _BURST_S)
        return max(
            max_wait_s * (1 + (_BURST - 1) * burst),
            self._stall_s - _CATCH_UP * (now - self._stall_ended),
        )

    def submit(
        self,
        item: Item,
        *,
        count: int = 1,
        size_bytes: int = 0,
        deadline: float = float("inf"),
        admitted: bool = False,
    ) -> asyncio.Future[Result]:
        """Queue one item. A caller takes it back by finishing the future before its batch starts.

        Args:
            count: how many items it counts as; at most `max_items`.
            deadline: on the batcher's clock. An item that still waits then is never run: its
                future raises DeadlinePassed when a batch would have taken it.
            admitted: it is refused for lack of room alone, however long it would wait.

        Returns:
            A future of the result. It raises Overloaded when the queue is full, or the wait would
            be too long.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        if refusal := self._full() if admitted else self.refusal():
            future.set_exception(refusal)
            return future
        self._waiting[future] = _Waiting(item, count, size_bytes, deadline, self._clock())
        self._waiting_count += count
        self._waiting_bytes += size_bytes
        future.add_done_callback(self._forget)
        if self._wake_up is None and self._may_start():
            # At the end of this loop iteration, so that items that arrive together go together.
            # In an empty context: Serve cancels by context, and the request that happens to open
            # a batch must not take the batch with it.
            self._wake_up = loop.call_soon(self._start, context=contextvars.Context())
        return future

    def _forget(self, future: asyncio.Future[Result]) -> None:
        if (taken_back := self._waiting.pop(future, None)) is not None:
            self._waiting_count -= taken_back.items
            self._waiting_bytes -= taken_back.size_bytes

    def _may_start(self) -> bool:
        """Whether a slot is free and enough items wait; see the header.

        A batch that has run for longer than _PATIENCE_S does not count as busy.
        """
        other_slots = self._limits.max_in_flight - 1
        if not self._waiting or len(self._in_flight) > other_slots:
            return False
        waiting, lately = self._waiting_count, self._clock() - _PATIENCE_S
        running = sum(batch.items for batch in self._in_flight if batch.since > lately)
        return waiting >= self._limits.max_items or (waiting + 1) * other_slots >= running

    def _start(self) -> None:
        self._wake_up = None
        while self._may_start():
            batch, count = self._take()
            if batch:
                now = self._clock()
                running = _Running(count, now, self._pace.full_s(now))
                self._in_flight.append(running)
                self._pace.taken(len(self._in_flight), now)
                task = asyncio.get_running_loop().create_task(
                    self._run_batch(batch, running), context=contextvars.Context()
                )
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard, context=contextvars.Context())

    def _take(self) -> tuple[list[tuple[asyncio.Future[Result], Item]], int]:
        """Remove the next batch from the queue; expired items get DeadlinePassed instead.

        Returns:
            The batch, and how many items it counts as.
        """
        now, count, size_bytes, waited_s = self._clock(), 0, 0, 0.0
        limits, queue = self._limits, self._waiting
        most = min(limits.max_items, -(-self.held // limits.max_in_flight))
        batch: list[tuple[asyncio.Future[Result], Item]] = []
        while queue:
            future, first = next(iter(queue.items()))
            expired = first.deadline <= now
            if batch and not expired and (
                count + first.items > most
                or size_bytes + first.size_bytes > limits.max_bytes
            ):  # fmt: skip
                break
            del queue[future]
            self._waiting_count -= first.items
            self._waiting_bytes -= first.size_bytes
            if future.done():  # taken back in this very loop iteration
                continue
            if expired:
                future.set_exception(DeadlinePassed("the deadline passed while waiting; try again"))
                continue
            count += first.items
            size_bytes += first.size_bytes
            waited_s = max(waited_s, now - first.since)
            batch.append((future, first.item))
        if batch:
            self._observe(count, waited_s)
        return batch, count

    def _end(self, running: _Running) -> None:
        now = self._clock()
        if self._pace.is_stalled(now, self._limits.max_wait_s):
            self._stall_ended = now
            self._stall_s = max(now - running.since, self.expected_wait_s())
        if running.since >= self._stall_ended:  # an outage says nothing of the pace
            full_s = self._pace.full_s(now) - running.full_s
            self._pace.ran(running.items, now - running.since, full_s, now)
        else:
            self._pace.moved(now - running.since, now)
        self._in_flight.remove(running)
        self._pace.taken(len(self._in_flight), now)

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
                self._end(running)
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

"""Claims about the batcher: order, fairness, bounds, deadlines, faults, items taken back."""

import asyncio
import contextvars
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import ClientLeft, DeadlinePassed, Overloaded
from deployments.pipeline.batcher import Batcher, BatchLimits

# max_items, max_bytes, max_in_flight, max_waiting
WIDE = BatchLimits(32, 1000, 1, 1000)


class Engine:
    """Runs batches only when told to, and remembers them."""

    def __init__(self, *, open_gate=True):
        self.batches = []
        self.gate = asyncio.Event()
        if open_gate:
            self.gate.set()
        self.most_at_once = self._at_once = 0

    async def run(self, items):
        self.batches.append(items)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await self.gate.wait()
        self._at_once -= 1
        return [f"answer to {item}" for item in items]


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_items_that_arrive_together_go_together():
    engine = Engine()
    batcher = Batcher(engine.run, WIDE)
    answers = await asyncio.gather(*(batcher.submit(n) for n in range(5)))
    assert engine.batches == [[0, 1, 2, 3, 4]]
    assert answers == [f"answer to {n}" for n in range(5)]


async def test_a_lone_item_does_not_wait_for_company():
    engine = Engine()
    batcher = Batcher(engine.run, WIDE)
    assert await asyncio.wait_for(batcher.submit("lone"), 1) == "answer to lone"


async def test_what_gathers_while_the_engine_is_busy_becomes_one_batch():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, WIDE)
    first = batcher.submit("first")
    await until(lambda: engine.batches)
    later = [batcher.submit(n) for n in range(7)]
    engine.gate.set()
    await asyncio.gather(first, *later)
    assert engine.batches == [["first"], list(range(7))]


@pytest.mark.parametrize(
    ("slots", "sizes"), [(1, [9]), (2, [5, 4]), (3, [3, 3, 3]), (4, [3, 3, 3])]
)
async def test_what_comes_together_is_shared_among_the_slots(slots, sizes):
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, BatchLimits(32, 1000, slots, 100))
    futures = [batcher.submit(n) for n in range(9)]
    await until(lambda: len(engine.batches) == len(sizes))
    assert [len(batch) for batch in engine.batches] == sizes
    engine.gate.set()
    await asyncio.gather(*futures)


async def test_what_waits_beside_a_batch_that_hangs_is_not_held_up():
    gate, batches = asyncio.Event(), []

    async def run(items):
        batches.append(items)
        if len(batches) == 1:
            await gate.wait()
        return items

    batcher = Batcher(run, BatchLimits(32, 1000, 2, 100))
    futures = [batcher.submit(n) for n in range(8)]
    await asyncio.gather(*futures[4:])
    few = batcher.submit("few")
    await asyncio.sleep(0)
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert await asyncio.wait_for(few, 5) == "few"
    gate.set()
    await asyncio.gather(*futures)


async def test_a_full_batch_need_not_be_as_large_as_all_that_run():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, BatchLimits(2, 1000, 2, 100))
    futures = [batcher.submit(n) for n in range(4)]
    await until(lambda: batcher.in_flight == 2)
    engine.gate.set()
    await asyncio.gather(*futures)


async def test_what_is_less_than_its_share_goes_when_nothing_else_runs():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, BatchLimits(32, 1000, 3, 100))
    first = [batcher.submit(n) for n in range(8)]
    await until(lambda: engine.batches)
    last = batcher.submit("few")
    engine.gate.set()
    assert await asyncio.wait_for(last, 5) == "answer to few"
    await asyncio.gather(*first)


async def test_the_next_batch_starts_before_the_answers_of_the_last_are_out():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, WIDE)
    first = [batcher.submit(n) for n in range(32)]
    await until(lambda: engine.batches)
    batcher.submit("next")
    out_by_then = []

    async def run(items):
        out_by_then.append(sum(future.done() for future in first))
        return items

    batcher._run = run
    engine.gate.set()
    await asyncio.gather(*first)
    assert out_by_then
    assert out_by_then[0] <= 8


async def test_an_item_that_its_caller_gave_up_is_never_run():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, WIDE)
    busy = batcher.submit("busy")
    await until(lambda: engine.batches)
    gone, here = batcher.submit("gone"), batcher.submit("here")
    gone.set_exception(ClientLeft("the client left"))
    engine.gate.set()
    await asyncio.gather(busy, here)
    with pytest.raises(ClientLeft):
        await gone
    assert engine.batches == [["busy"], ["here"]]


async def test_first_come_first_served_across_batches():
    engine = Engine()
    batcher = Batcher(engine.run, BatchLimits(3, 1000, 1, 100))
    await asyncio.gather(*(batcher.submit(n) for n in range(8)))
    assert engine.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_a_batch_is_bounded_by_bytes_and_a_larger_item_goes_alone():
    engine = Engine()
    batcher = Batcher(engine.run, BatchLimits(32, 10, 1, 100))
    sizes = [4, 4, 4, 25, 4]
    await asyncio.gather(*(batcher.submit(n, size_bytes=size) for n, size in enumerate(sizes)))
    assert engine.batches == [[0, 1], [2], [3], [4]]


async def test_no_more_batches_run_at_once_than_allowed():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, BatchLimits(2, 10, 3, 100))
    futures = [batcher.submit(n) for n in range(20)]
    await until(lambda: len(engine.batches) == 3)
    await asyncio.sleep(0)
    assert batcher.in_flight == 3
    engine.gate.set()
    await asyncio.gather(*futures)
    assert engine.most_at_once == 3


async def test_one_item_too_many_is_refused_and_the_others_are_answered():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, BatchLimits(1, 10, 1, 2))
    running = batcher.submit("running")
    await until(lambda: engine.batches)
    waiting = [batcher.submit(n) for n in range(2)]
    with pytest.raises(Overloaded):
        await batcher.submit("one too many")
    engine.gate.set()
    assert len(await asyncio.gather(running, *waiting)) == 3


async def test_an_item_taken_back_while_waiting_is_never_run_and_frees_its_place():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, BatchLimits(8, 10, 1, 2))
    running = batcher.submit("running")
    await until(lambda: engine.batches)
    left, stayed = batcher.submit("left"), batcher.submit("stayed")
    left.cancel()
    await asyncio.sleep(0)
    other = batcher.submit("other")
    engine.gate.set()
    await asyncio.gather(running, stayed, other)
    assert engine.batches == [["running"], ["stayed", "other"]]


async def test_an_item_taken_back_in_the_same_turn_is_never_run():
    engine = Engine()
    batcher = Batcher(engine.run, WIDE)
    left, stayed = batcher.submit("left"), batcher.submit("stayed")
    left.cancel()
    await stayed
    assert engine.batches == [["stayed"]]


async def test_an_item_taken_back_while_running_leaves_its_batch_alone():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, WIDE)
    left, stayed = batcher.submit("left"), batcher.submit("stayed")
    await until(lambda: engine.batches)
    left.cancel()
    engine.gate.set()
    assert await stayed == "answer to stayed"


async def test_an_item_past_its_deadline_is_never_run():
    engine, clock = Engine(open_gate=False), Clock()
    batcher = Batcher(engine.run, WIDE, clock=clock)
    running = batcher.submit("running", deadline=clock.now + 1)
    await until(lambda: engine.batches)
    late = batcher.submit("late", deadline=clock.now + 1)
    in_time = batcher.submit("in time", deadline=clock.now + 10)
    clock.now += 5
    engine.gate.set()
    with pytest.raises(DeadlinePassed):
        await late
    await asyncio.gather(running, in_time)
    assert engine.batches == [["running"], ["in time"]]


async def test_each_batch_is_reported_with_its_size_and_longest_wait():
    engine, clock, reported = Engine(open_gate=False), Clock(), []
    batcher = Batcher(engine.run, WIDE, lambda *batch: reported.append(batch), clock)
    first = batcher.submit("first")
    await until(lambda: engine.batches)
    later = batcher.submit("waits 3 s")
    clock.now += 1
    last = batcher.submit("waits 2 s")
    clock.now += 2
    engine.gate.set()
    await asyncio.gather(first, later, last)
    assert reported == [(1, 0.0), (2, 3.0)]


async def test_an_error_of_one_item_is_its_own():
    async def run(items):
        return [ValueError(item) if item == "bad" else item for item in items]

    batcher = Batcher(run, WIDE)
    good, bad, other = (batcher.submit(item) for item in ("good", "bad", "other"))
    assert await asyncio.gather(good, other) == ["good", "other"]
    with pytest.raises(ValueError, match="bad"):
        await bad


async def test_a_batch_that_fails_fails_its_items_and_no_later_ones():
    async def run(items):
        if "poison" in items:
            raise OSError("engine on fire")
        return items

    batcher = Batcher(run, BatchLimits(2, 10, 1, 100))
    futures = [batcher.submit(item) for item in ("poison", "beside it", "later")]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError, str]


async def test_too_few_results_are_an_error_not_a_mix_up():
    async def run(items):
        return items[1:]

    batcher = Batcher(run, WIDE)
    with pytest.raises(RuntimeError, match="1 results for a batch of 2"):
        await asyncio.gather(batcher.submit("a"), batcher.submit("b"))


async def test_a_batch_runs_in_the_context_of_none_of_its_items():
    request = contextvars.ContextVar("request", default="none")
    seen = []

    async def run(items):
        seen.append(request.get())
        return items

    async def client(name):
        request.set(name)
        await batcher.submit(name)

    batcher = Batcher(run, BatchLimits(1, 10, 1, 100))
    await asyncio.gather(*(asyncio.create_task(client(name)) for name in "abc"))
    assert seen == ["none"] * 3


async def test_the_client_that_opened_a_batch_may_be_cancelled_alone():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, WIDE)

    async def client(name):
        return await batcher.submit(name)

    opener, other = asyncio.create_task(client("opener")), asyncio.create_task(client("other"))
    await until(lambda: engine.batches)
    opener.cancel()
    engine.gate.set()
    assert await other == "answer to other"
    assert engine.batches == [["opener", "other"]]


@settings(max_examples=150, deadline=None)
@given(
    items=st.integers(1, 9),
    in_flight=st.integers(1, 4),
    waiting=st.integers(1, 40),
    clients=st.lists(
        st.tuples(
            st.integers(0, 30),  # bytes
            st.booleans(),  # leaves before it is answered
            st.booleans(),  # a bad item
            st.integers(0, 6),  # turns of the loop before the next client comes
        ),
        max_size=60,
    ),
)
def test_no_item_is_lost_doubled_or_swapped(items, in_flight, waiting, clients):
    async def scenario():
        ran = []

        async def run(batch):
            ran.extend(batch)
            assert len(batch) <= items
            for _ in range(batch[0] % 4):
                await asyncio.sleep(0)
            return [KeyError(n) if clients[n][2] else n for n in batch]

        batcher = Batcher(run, BatchLimits(items, 40, in_flight, waiting))
        futures = []
        for n, (size_bytes, leaves, _, turns) in enumerate(clients):
            futures.append(batcher.submit(n, size_bytes=size_bytes))
            if leaves:
                futures[n].cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5)
        assert len(ran) == len(set(ran))
        assert batcher.waiting == batcher.in_flight == 0
        for n, future in enumerate(futures):
            assert future.done()
            if future.cancelled():
                continue
            error = future.exception()
            if isinstance(error, Overloaded):
                assert n not in ran
            elif clients[n][2]:
                assert isinstance(error, KeyError)
                assert error.args == (n,)
            else:
                assert future.result() == n

    asyncio.run(scenario())


async def test_an_item_that_stands_for_many_counts_as_many_and_is_not_split():
    engine = Engine(open_gate=False)
    batcher = Batcher(engine.run, BatchLimits(32, 1000, 1, 70))
    busy = batcher.submit("busy")
    await until(lambda: engine.batches)
    futures = [batcher.submit(n, count=20) for n in range(3)]
    assert (batcher.waiting, batcher.held) == (60, 61)
    futures[2].cancel()
    await asyncio.sleep(0)
    assert batcher.waiting == 40
    futures += [batcher.submit("ten", count=10), batcher.submit("twenty", count=20)]
    with pytest.raises(Overloaded):
        await batcher.submit("over")
    engine.gate.set()
    await asyncio.gather(busy, *futures, return_exceptions=True)
    assert engine.batches == [["busy"], [0], [1, "ten"], ["twenty"]]


class PacedEngine:
    """Takes a fixed time for each item, on a clock that a test moves."""

    def __init__(self, clock, s_per_item):
        self.clock, self.s_per_item = clock, s_per_item

    async def run(self, items):
        await asyncio.sleep(0)
        self.clock.now += self.s_per_item * len(items)
        return items


async def test_an_item_that_would_wait_too_long_is_refused_and_the_others_wait_as_told():
    clock = Clock()
    engine = PacedEngine(clock, 0.01)
    batcher = Batcher(engine.run, BatchLimits(10, 1000, 1, 10**6, max_wait_s=2.0), clock=clock)
    burst_ends = clock.now + 10
    came, waited, refused = {}, [], 0

    def answered(future):
        if came[future] > burst_ends:
            waited.append(clock.now - came[future])

    for _ in range(400):  # in turn, three times as many as the engine can take
        for n in range(30):
            future = batcher.submit(n)
            if future.done():
                assert isinstance(future.exception(), Overloaded)
                refused += 1
            else:
                came[future] = clock.now
                future.add_done_callback(answered)
        in_time = clock.now + 0.1
        while clock.now < in_time:
            await asyncio.sleep(0)
    await asyncio.gather(*came)
    assert refused / 12_000 == pytest.approx(2 / 3, rel=0.1)
    late = sorted(waited)[int(0.5 * len(waited)) :]
    assert late[0] == pytest.approx(2.0, rel=0.15)
    assert late[-1] < 2.5


async def test_a_burst_waits_instead_of_being_refused():
    clock = Clock()
    batcher = Batcher(
        TimedEngine(clock, 0.001).run, BatchLimits(10, 10**9, 1, 10**6, max_wait_s=0.5), clock=clock
    )
    taken = []
    for per_s, seconds in ((500, 10), (1300, 4), (500, 10)) * 2:
        more, refused_at = await offer(batcher, clock, per_s, seconds)
        assert not refused_at
        taken += more
    more, refused_at = await offer(batcher, clock, per_s=1300, seconds=30)
    assert refused_at
    assert batcher.expected_wait_s() == pytest.approx(0.5, rel=0.2)
    await drain(taken + more, clock)


class TimedEngine:
    """Takes a fixed time for each item, on a clock that `offer` moves; an outage stops it."""

    def __init__(self, clock, s_per_item, outage=(math.inf, math.inf)):
        self.clock, self.s_per_item, self.outage = clock, s_per_item, outage
        self.free_at = clock.now

    async def run(self, items):
        # Batches side by side share it.
        self.free_at = max(self.free_at, self.clock.now) + self.s_per_item * len(items)
        ends = self.free_at
        while self.clock.now < ends or self.outage[0] <= self.clock.now < self.outage[1]:
            await asyncio.sleep(0)
        return items


async def offer(batcher, clock, per_s, seconds):
    """Items at a steady rate. Returns those that were taken, and when others were refused."""
    taken, refused_at = [], []
    for _ in range(round(100 * seconds)):
        for n in range(per_s // 100):
            future = batcher.submit(n)
            if future.done():
                assert isinstance(future.exception(), Overloaded)
                refused_at.append(clock.now)
            else:
                taken.append(future)
        clock.now += 0.01
        for _ in range(10):  # what has ended makes room
            await asyncio.sleep(0)
    return taken, refused_at


async def drain(taken, clock):
    while not all(future.done() for future in taken):
        clock.now += 0.01
        await asyncio.sleep(0)


@pytest.mark.parametrize("slots", [1, 2])
async def test_what_comes_in_an_outage_waits_for_its_end(slots):
    clock = Clock()
    engine = TimedEngine(clock, 0.001, (clock.now + 2, clock.now + 6))
    limits = BatchLimits(10, 10**9, slots, 10**6, max_wait_s=0.5)
    batcher = Batcher(engine.run, limits, clock=clock)
    taken, refused_at = await offer(batcher, clock, per_s=500, seconds=15)
    assert not refused_at
    assert batcher.expected_wait_s() < 0.1
    await drain(taken, clock)


async def test_too_much_after_an_outage_is_refused_again_within_seconds():
    clock = Clock()
    began = clock.now
    engine = TimedEngine(clock, 0.001, (began + 12, began + 14))  # when the burst is over
    batcher = Batcher(engine.run, BatchLimits(10, 10**9, 1, 10**6, max_wait_s=0.5), clock=clock)
    taken, refused_at = await offer(batcher, clock, per_s=2000, seconds=30)
    assert min(refused_at) < began + 12
    assert not [at for at in refused_at if began + 12.6 < at < began + 14]
    assert batcher.expected_wait_s() == pytest.approx(0.5, rel=0.2)
    await drain(taken, clock)


async def test_an_outage_is_bounded_by_bytes():
    clock = Clock()
    engine = Engine(open_gate=False)
    limits = BatchLimits(1, 1000, 1, 100, max_wait_s=2.0, max_waiting_bytes=10)
    batcher = Batcher(engine.run, limits, clock=clock)
    busy = batcher.submit("busy", size_bytes=100)
    await until(lambda: engine.batches)
    clock.now += 60
    waiting = [batcher.submit("waits", size_bytes=4) for _ in range(3)]
    assert "the queue is full" in str(batcher.refusal())
    waiting.pop().cancel()
    await asyncio.sleep(0)
    assert batcher.refusal() is None
    engine.gate.set()
    await asyncio.gather(busy, *waiting)


async def test_one_batch_that_takes_long_is_no_outage():
    clock = Clock()
    engine = TimedEngine(clock, 0.1)
    batcher = Batcher(engine.run, BatchLimits(10, 10**9, 1, 10**6, max_wait_s=0.5), clock=clock)
    taken, refused_at = await offer(batcher, clock, per_s=100, seconds=30)
    assert len(refused_at) / 3000 == pytest.approx(0.9, rel=0.1)
    await drain(taken, clock)


async def test_a_queue_that_was_empty_tells_nothing_of_the_pace():
    clock = Clock()
    batcher = Batcher(PacedEngine(clock, 0.0).run, WIDE, clock=clock)
    for _ in range(3):
        await batcher.submit("alone")
        clock.now += 3600
    assert batcher.expected_wait_s() == 0


async def test_items_that_are_admitted_need_room_alone():
    clock = Clock()
    limits = BatchLimits(10, 10**9, 1, 300, max_wait_s=0.5)
    batcher = Batcher(TimedEngine(clock, 0.01).run, limits, clock=clock)
    taken, refused_at = await offer(batcher, clock, per_s=200, seconds=30)
    assert refused_at  # so that the next burst is far
    await drain(taken, clock)

    def refused(futures):
        return [future for future in futures if future.done() and future.exception()]

    futures = [batcher.submit(n) for n in range(100)]
    assert refused(futures)  # the last of them would wait for a second
    await drain(futures, clock)
    futures = [batcher.submit(n, admitted=n > 0) for n in range(400)]
    assert len(refused(futures)) == 100
    await drain(futures, clock)

"""Claims about the ingress' groups: lanes, bounds, deadlines and clients that leave."""

import asyncio
import time

import pytest

from deployments.errors import ClientLeft, DeadlinePassed
from deployments.messages import Answers, Trace
from deployments.pipeline.dispatcher import Grouping
from deployments.settings import Grouping as Bounds
from deployments.settings import Settings
from deployments.telemetry.request_log import Entry
from mlc_core.errors import UndecodablePhoto
from mlc_core.labels import Choice

ANY = Choice()


def stays():
    return False


SMALL, LARGE = b"small", b"L" * 100
TRACE = Trace({"decode": 0.1, "inference": 0.2}, 3, "fashion/1")


class Preprocessor:
    def __init__(self):
        self.groups = []
        self.gate = asyncio.Event()

    async def classify(self, group):
        self.groups.append([photo.data for photo in group])
        self.left_s = [photo.left_s for photo in group]
        self.request_ids = [photo.request_id for photo in group]
        await self.gate.wait()
        return Answers([b"answer to " + photo.data for photo in group], TRACE)


@pytest.fixture
def preprocessor():
    return Preprocessor()


def grouping(preprocessor, deadline_s=5.0):
    settings = Settings(
        deadline_s=deadline_s,
        large_photo_bytes=50,
        small_photos=Bounds(photos=4, in_flight=1),
        large_photos=Bounds(photos=4, size_bytes=250, in_flight=1),
    )
    return Grouping(preprocessor.classify, settings)


async def test_small_photos_never_ride_with_large_ones_nor_wait_for_them(preprocessor):
    groups = grouping(preprocessor)
    waiting = asyncio.ensure_future(
        groups.classify_many([SMALL, LARGE, SMALL, LARGE, LARGE], ANY, Entry("id"))
    )
    async with asyncio.timeout(5):
        while len(preprocessor.groups) < 2:
            await asyncio.sleep(0)
    assert preprocessor.groups == [[SMALL, SMALL], [LARGE, LARGE]]
    preprocessor.gate.set()
    assert await waiting == [b"answer to " + p for p in (SMALL, LARGE, SMALL, LARGE, LARGE)]


async def test_a_photo_is_told_when_its_deadline_passes_and_carries_what_is_left(preprocessor):
    groups = grouping(preprocessor, deadline_s=0.05)
    began = time.monotonic()
    with pytest.raises(DeadlinePassed):
        await groups.classify(SMALL, ANY, stays, Entry("id"))
    assert time.monotonic() - began < 2
    assert 0 < preprocessor.left_s[0] <= 0.05


async def test_a_call_that_hangs_gives_its_slot_back_when_nobody_waits_for_it(preprocessor):
    groups = grouping(preprocessor, deadline_s=0.05)
    with pytest.raises(DeadlinePassed):  # its call is never answered
        await groups.classify(b"hangs", ANY, stays, Entry("id"))
    preprocessor.gate.set()
    assert await groups.classify(SMALL, ANY, stays, Entry("id")) == b"answer to " + SMALL


async def test_in_a_batch_only_those_without_an_answer_are_late(preprocessor):
    groups = grouping(preprocessor, deadline_s=0.2)
    preprocessor.gate.set()

    async def answer_small_only(group):
        if group[0].data == LARGE:
            await asyncio.Event().wait()
        return Answers([b"answered"] * len(group), TRACE)

    groups._send = answer_small_only
    small, large = await groups.classify_many([SMALL, LARGE], ANY, Entry("id"))
    assert small == b"answered"
    assert isinstance(large, DeadlinePassed)


async def test_a_client_that_left_while_waiting_costs_no_inference(preprocessor):
    groups = grouping(preprocessor)
    running = asyncio.ensure_future(groups.classify(b"running", ANY, stays, Entry("id")))
    async with asyncio.timeout(5):
        while not preprocessor.groups:
            await asyncio.sleep(0)
    left = asyncio.ensure_future(groups.classify(b"left", ANY, lambda: True, Entry("id")))
    stayed = asyncio.ensure_future(groups.classify(b"stayed", ANY, stays, Entry("id")))
    await asyncio.sleep(0)
    preprocessor.gate.set()
    await asyncio.gather(running, stayed)
    with pytest.raises(ClientLeft):
        await left
    assert preprocessor.groups == [[b"running"], [b"stayed"]]


async def test_a_fault_is_raised_to_the_one_whose_photo_it_is(preprocessor):
    async def send(group):
        answers = [UndecodablePhoto("bad") if p.data == b"bad" else p.data for p in group]
        return Answers(answers, TRACE)

    groups = grouping(preprocessor)
    groups._send = send
    good, bad = await asyncio.gather(
        groups.classify(b"good", ANY, stays, Entry("id")),
        groups.classify(b"bad", ANY, stays, Entry("id")),
        return_exceptions=True,
    )
    assert good == b"good"
    assert isinstance(bad, UndecodablePhoto)


async def test_a_request_learns_how_long_it_waited_and_what_its_groups_met(preprocessor):
    groups = grouping(preprocessor)
    first, second, entry = Entry("first"), Entry("second"), Entry("batch")
    running = asyncio.ensure_future(groups.classify(b"running", ANY, stays, first))
    async with asyncio.timeout(5):
        while not preprocessor.groups:
            await asyncio.sleep(0)
    waiting = asyncio.ensure_future(groups.classify(b"waiting", ANY, stays, second))
    await asyncio.sleep(0.05)
    preprocessor.gate.set()
    await asyncio.gather(running, waiting)
    assert second.stages_s["small_photos_queue"] >= 0.05 > first.stages_s["small_photos_queue"]
    assert (first.traces, second.traces) == ([TRACE], [TRACE])
    await groups.classify_many([SMALL, LARGE], ANY, entry)
    assert set(entry.stages_s) == {"read", "small_photos_queue", "large_photos_queue"}
    assert entry.traces == [TRACE, TRACE]
    assert preprocessor.request_ids == ["batch"]

"""Claims about the ingress' groups: lanes, bounds, deadlines and clients that leave."""

import asyncio
import time

import pytest

from deployments.errors import ClientLeft, DeadlinePassed
from deployments.grouping import Grouping
from deployments.settings import Grouping as Bounds
from deployments.settings import Settings
from mlc_core.errors import UndecodablePhoto
from mlc_core.labels import Choice

ANY = Choice()


def stays():
    return False


SMALL, LARGE = b"small", b"L" * 100


class Preprocessor:
    def __init__(self):
        self.groups = []
        self.gate = asyncio.Event()

    async def classify(self, group):
        self.groups.append([photo.data for photo in group])
        self.left_s = [photo.left_s for photo in group]
        await self.gate.wait()
        return [b"answer to " + photo.data for photo in group]


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
    waiting = asyncio.ensure_future(groups.classify_many([SMALL, LARGE, SMALL, LARGE, LARGE], ANY))
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
        await groups.classify(SMALL, ANY, stays)
    assert time.monotonic() - began < 2
    assert 0 < preprocessor.left_s[0] <= 0.05


async def test_a_call_that_hangs_gives_its_slot_back_when_nobody_waits_for_it(preprocessor):
    groups = grouping(preprocessor, deadline_s=0.05)
    with pytest.raises(DeadlinePassed):  # its call is never answered
        await groups.classify(b"hangs", ANY, stays)
    preprocessor.gate.set()
    assert await groups.classify(SMALL, ANY, stays) == b"answer to " + SMALL


async def test_in_a_batch_only_those_without_an_answer_are_late(preprocessor):
    groups = grouping(preprocessor, deadline_s=0.2)
    preprocessor.gate.set()

    async def answer_small_only(group):
        if group[0].data == LARGE:
            await asyncio.Event().wait()
        return [b"answered"] * len(group)

    groups._send = answer_small_only
    small, large = await groups.classify_many([SMALL, LARGE], ANY)
    assert small == b"answered"
    assert isinstance(large, DeadlinePassed)


async def test_a_client_that_left_while_waiting_costs_no_inference(preprocessor):
    groups = grouping(preprocessor)
    running = asyncio.ensure_future(groups.classify(b"running", ANY, stays))
    async with asyncio.timeout(5):
        while not preprocessor.groups:
            await asyncio.sleep(0)
    left = asyncio.ensure_future(groups.classify(b"left", ANY, lambda: True))
    stayed = asyncio.ensure_future(groups.classify(b"stayed", ANY, stays))
    await asyncio.sleep(0)
    preprocessor.gate.set()
    await asyncio.gather(running, stayed)
    with pytest.raises(ClientLeft):
        await left
    assert preprocessor.groups == [[b"running"], [b"stayed"]]


async def test_a_fault_is_raised_to_the_one_whose_photo_it_is(preprocessor):
    async def send(group):
        return [UndecodablePhoto("bad") if p.data == b"bad" else p.data for p in group]

    groups = grouping(preprocessor)
    groups._send = send
    good, bad = await asyncio.gather(
        groups.classify(b"good", ANY, stays),
        groups.classify(b"bad", ANY, stays),
        return_exceptions=True,
    )
    assert good == b"good"
    assert isinstance(bad, UndecodablePhoto)

"""Claims about photos that take down the replica that decodes them."""

import asyncio

import pytest

from deployments.errors import HarmfulPhoto
from deployments.messages import Deadline, GroupAnswers, Photo, PhotoGroup, Trace
from deployments.pipeline.quarantine import REMEMBERED_S, HarmfulPhotos, Quarantine
from deployments.pipeline.replicas import ReplicaLost
from mlc_core.labels import Choice

pytestmark = pytest.mark.timeout(30)

POISON = b"poison"


class Preprocessor:
    """One replica, again and again: a harmful photo ends it with everything that it holds."""

    def __init__(self):
        self.deaths, self.tried, self.ended = 0, [], asyncio.Event()
        self.harmful = HarmfulPhotos()

    def kill(self):
        self.deaths += 1
        self.ended.set()
        self.ended = asyncio.Event()

    async def send(self, group):
        self.harmful.add(group.harmful)
        refused = self.harmful.refusals(group.photos)
        left = [n for n in range(len(group.photos)) if n not in refused]
        self.tried.append([group.photos[n].data for n in left])
        ended = self.ended
        begun = None
        for part in [[n] for n in left] if group.careful else [left]:
            begun = part[0] if group.careful else None
            for _ in range(3):  # it decodes
                await asyncio.sleep(0)
            if POISON in [group.photos[n].data for n in part] and not ended.is_set():
                self.kill()
            if ended.is_set():
                lost = ReplicaLost("gone")
                lost.begun = begun
                raise lost
        answers = [refused.get(n, photo.data) for n, photo in enumerate(group.photos)]
        return GroupAnswers(answers, Trace({}, 1, "m"))


@pytest.fixture
def preprocessor():
    return Preprocessor()


@pytest.fixture
def quarantine(preprocessor):
    return Quarantine(preprocessor.send, preprocessor.send)


def group(*photos):
    return PhotoGroup([Photo(data, Choice(), "id") for data in photos], Deadline.after(30))


def told(reply):
    return ["refused" if isinstance(a, HarmfulPhoto) else a for a in reply.answers]


async def test_the_others_in_its_group_get_their_answers(preprocessor, quarantine):
    assert told(await quarantine(group(b"a", POISON, b"b"))) == [b"a", "refused", b"b"]
    assert preprocessor.deaths == 2


async def test_it_is_not_tried_again_while_it_is_remembered(preprocessor, quarantine):
    await quarantine(group(POISON))
    for _ in range(3):
        assert told(await quarantine(group(b"a", POISON))) == [b"a", "refused"]
    assert told(await quarantine(group(POISON))) == ["refused"]
    assert preprocessor.deaths == 2


async def test_copies_that_come_meanwhile_take_down_no_more(preprocessor, quarantine):
    groups = [group(b"%d" % n, POISON) for n in range(4)]
    first = asyncio.create_task(quarantine(groups[0]))
    while not preprocessor.deaths:
        await asyncio.sleep(0)
    others = [asyncio.create_task(quarantine(each)) for each in groups[1:]]
    replies = await asyncio.gather(first, *others)
    assert [told(reply) for reply in replies] == [[b"%d" % n, "refused"] for n in range(4)]
    assert preprocessor.deaths == 2


async def test_groups_that_were_lost_with_it_are_answered(preprocessor, quarantine):
    groups = [group(b"%d" % n, b"x") for n in range(4)]
    tasks = [asyncio.create_task(quarantine(each)) for each in (*groups, group(POISON))]
    replies = await asyncio.gather(*tasks)
    assert [told(reply) for reply in replies] == [[b"%d" % n, b"x"] for n in range(4)] + [
        ["refused"]
    ]
    assert preprocessor.deaths == 2


async def test_a_replica_that_is_killed_otherwise_incriminates_nobody(preprocessor, quarantine):
    task = asyncio.create_task(quarantine(group(b"a", b"b")))
    while not preprocessor.tried:
        await asyncio.sleep(0)
    preprocessor.kill()
    assert told(await task) == [b"a", b"b"]
    assert told(await quarantine(group(b"a", b"b"))) == [b"a", b"b"]


async def test_two_harmful_photos_of_a_group_are_both_found(preprocessor, quarantine):
    other = Quarantine(preprocessor.send, preprocessor.send)
    sent = group(b"a", POISON, b"b", POISON, b"c")
    told_here, told_there = await asyncio.gather(quarantine(sent), other(group(b"d")))
    assert told(told_here) == [b"a", "refused", b"b", "refused", b"c"]
    assert told(told_there) == [b"d"]
    assert preprocessor.deaths == 2


async def test_a_replica_that_is_lost_before_it_begins_incriminates_nobody(preprocessor):
    left = [3]

    async def careful(sent):
        if left[0]:
            left[0] -= 1
            raise ReplicaLost("gone before it began")
        return await preprocessor.send(sent)

    async def lost(_):
        raise ReplicaLost("gone")

    assert told(await Quarantine(lost, careful)(group(b"a", b"b"))) == [b"a", b"b"]


async def test_another_ingress_learns_of_it_from_the_preprocessor(preprocessor, quarantine):
    await quarantine(group(POISON))
    await quarantine(group(b"a"))  # tells the replica
    other = Quarantine(preprocessor.send, preprocessor.send)
    assert told(await other(group(POISON, b"b"))) == ["refused", b"b"]
    preprocessor.harmful = HarmfulPhotos()  # another replica, that has heard nothing yet
    assert told(await other(group(POISON))) == ["refused"]
    assert preprocessor.deaths == 2


async def test_a_caller_that_gives_up_leaves_no_suspect_behind(preprocessor, quarantine):
    hangs = asyncio.Event()

    async def careful(_):
        hangs.set()
        await asyncio.Event().wait()

    quarantine = Quarantine(preprocessor.send, careful)
    task = asyncio.create_task(quarantine(group(b"a", POISON)))
    await hangs.wait()
    waits = asyncio.create_task(quarantine(group(b"a")))
    await asyncio.sleep(0)
    assert not waits.done()
    task.cancel()
    assert told(await waits) == [b"a"]


def test_it_is_forgotten_after_a_while():
    now = [0.0]
    harmful = HarmfulPhotos(lambda: now[0])
    harmful.add([b"old"])
    now[0] = REMEMBERED_S / 2
    harmful.add([b"old", b"new"])
    now[0] = REMEMBERED_S
    assert harmful.digests() == [b"new"]


def test_only_so_many_are_remembered():
    harmful = HarmfulPhotos()
    harmful.add([b"%d" % n for n in range(1000)])
    assert harmful.digests() == [b"%d" % n for n in range(936, 1000)]

"""Claims about the dispatcher: lanes, limits, deadlines, and photos that are taken back."""

import asyncio
import time

import pytest
from photos import blank_png, jpeg, many_scans, slow_photo
from recording import Recording

from deployments.errors import ClientLeft, DeadlinePassed, Overloaded, ServiceError, Unavailable
from deployments.messages import GroupAnswers, Trace
from deployments.pipeline.dispatcher import Dispatcher
from deployments.settings import LaneSettings, Settings
from deployments.telemetry.catalogue import QUEUE_LENGTH
from mlc_core.errors import UndecodablePhoto
from mlc_core.labels import Choice

ANY = Choice()
SMALL, LARGE = b"small", b"L" * 100
TRACE = Trace({"decode": 0.1, "inference": 0.2}, 3, "fashion/1")


class Preprocessor:
    """Answers groups once its gate is open, and remembers them."""

    def __init__(self):
        self.groups = []
        self.gate = asyncio.Event()

    async def preprocess(self, group):
        self.groups.append(group)
        await self.gate.wait()
        return GroupAnswers([b"answer to " + photo.data for photo in group.photos], TRACE)

    def sent(self):
        return [[photo.data for photo in group.photos] for group in self.groups]

    async def called(self, times=1):
        async with asyncio.timeout(5):
            while len(self.groups) < times:
                await asyncio.sleep(0)


@pytest.fixture
def preprocessor():
    return Preprocessor()


def dispatcher(send, deadline_s=5.0, recorder=None):
    settings = Settings(
        deadline_s=deadline_s,
        large_photo_bytes=50,
        small_lane=LaneSettings(max_photos=4, max_in_flight=1),
        large_lane=LaneSettings(max_photos=4, max_bytes=250, max_in_flight=1),
    )
    return Dispatcher(send, settings, recorder or Recording())


async def dispatch(dispatcher, *photos):
    submitted = [dispatcher.submit(photo, ANY, "id") for photo in photos]
    return await dispatcher.wait_for_all(submitted)


async def test_small_photos_never_travel_with_large_ones_nor_wait_for_them(preprocessor):
    waiting = asyncio.ensure_future(
        dispatch(dispatcher(preprocessor.preprocess), SMALL, LARGE, SMALL, LARGE, LARGE)
    )
    await preprocessor.called(2)
    assert preprocessor.sent() == [[SMALL, SMALL], [LARGE, LARGE]]
    preprocessor.gate.set()
    outcomes = await waiting
    assert [outcome.answer for outcome in outcomes] == [
        b"answer to " + photo for photo in (SMALL, LARGE, SMALL, LARGE, LARGE)
    ]


async def test_a_small_file_that_takes_long_to_decode_goes_with_large_photos(preprocessor):
    preprocessor.gate.set()
    photos = Dispatcher(preprocessor.preprocess, Settings(), Recording())
    files = [jpeg(1, (60, 80)), slow_photo(), blank_png(2500, 2500), many_scans(30, 600)]
    assert all(len(file) < Settings().large_photo_bytes for file in files)
    stages = [outcome.stage for outcome in await dispatch(photos, *files)]
    assert stages == ["small_photos_queue"] * 2 + ["large_photos_queue"] * 2


async def test_a_photo_is_late_when_its_deadline_passes_and_its_group_carries_what_is_left(
    preprocessor,
):
    photos = dispatcher(preprocessor.preprocess, deadline_s=0.05)
    photos.last_answer_at = time.monotonic()
    submitted, began = photos.submit(SMALL, ANY, "id"), time.monotonic()
    with pytest.raises((DeadlinePassed, Unavailable)):
        await photos.wait(submitted)
    assert time.monotonic() - began >= 0.05
    (group,) = preprocessor.groups
    assert group.deadline.at <= began + 0.05


async def test_a_group_has_the_latest_deadline_of_its_photos(preprocessor):
    photos = dispatcher(preprocessor.preprocess)
    running = photos.submit(b"running", ANY, "id")
    await preprocessor.called()
    early = photos.submit(b"early", ANY, "id")
    await asyncio.sleep(0.01)
    before = time.monotonic()
    late = photos.submit(b"late", ANY, "id")
    preprocessor.gate.set()
    await asyncio.gather(running, early, late)
    assert preprocessor.groups[1].deadline.at >= before + 5.0


async def test_a_call_that_hangs_gives_its_slot_back_when_its_deadline_passes(preprocessor):
    photos = dispatcher(preprocessor.preprocess, deadline_s=0.05)
    with pytest.raises(Unavailable):  # its call is never answered
        await photos.wait(photos.submit(b"hangs", ANY, "id"))
    preprocessor.gate.set()
    outcome = await photos.wait(photos.submit(SMALL, ANY, "id"))
    assert outcome.answer == b"answer to " + SMALL


async def test_in_a_batch_request_only_photos_without_an_answer_are_late():
    async def answer_small_only(group):
        if group.photos[0].data == LARGE:
            await asyncio.Event().wait()
        return GroupAnswers([b"answered"] * len(group.photos), TRACE)

    small, large = await dispatch(dispatcher(answer_small_only, deadline_s=0.2), SMALL, LARGE)
    assert small.answer == b"answered"
    assert isinstance(large, ServiceError)


@pytest.mark.parametrize(
    ("last_answer_s_ago", "error"), [(0.5, DeadlinePassed), (60.0, Unavailable)]
)
async def test_late_means_slow_while_others_are_answered_and_gone_while_nothing_is(
    preprocessor, last_answer_s_ago, error
):
    photos = dispatcher(preprocessor.preprocess, deadline_s=1.0)
    photos.last_answer_at = time.monotonic() + 1.0 - last_answer_s_ago
    with pytest.raises(error):
        await photos.wait(photos.submit(SMALL, ANY, "id"))


async def test_only_labels_count_as_an_answer_of_the_pipeline():
    async def send(group):
        return GroupAnswers([p.data if p.data == b"good" else UndecodablePhoto("bad")
                             for p in group.photos], TRACE)  # fmt: skip

    photos = dispatcher(send)
    await dispatch(photos, b"bad")
    assert photos.last_answer_at == float("-inf")
    await dispatch(photos, b"bad", b"good")
    assert photos.last_answer_at > 0


async def test_a_photo_that_was_taken_back_is_in_no_group(preprocessor):
    photos = dispatcher(preprocessor.preprocess)
    running = photos.submit(b"running", ANY, "id")
    await preprocessor.called()
    left, stayed = (photos.submit(data, ANY, "id") for data in (b"left", b"stayed"))
    left.set_exception(ClientLeft("left"))
    preprocessor.gate.set()
    await asyncio.gather(running, stayed)
    with pytest.raises(ClientLeft):
        await photos.wait(left)
    assert preprocessor.sent() == [[b"running"], [b"stayed"]]


async def test_a_batch_request_that_is_cancelled_takes_its_photos_back(preprocessor):
    photos = dispatcher(preprocessor.preprocess)
    running = photos.submit(b"running", ANY, "id")
    await preprocessor.called()
    request = asyncio.ensure_future(dispatch(photos, b"left", b"left too"))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    stayed = photos.submit(b"stayed", ANY, "id")
    preprocessor.gate.set()
    await asyncio.gather(running, stayed)
    assert preprocessor.sent() == [[b"running"], [b"stayed"]]


async def test_a_fault_is_the_answer_of_the_photo_that_has_it():
    async def send(group):
        bad = UndecodablePhoto("bad")
        return GroupAnswers([bad if p.data == b"bad" else p.data for p in group.photos], TRACE)

    good, bad = await dispatch(dispatcher(send), b"good", b"bad")
    assert good.answer == b"good"
    assert isinstance(bad.answer, UndecodablePhoto)


async def test_an_outcome_tells_where_the_time_went(preprocessor):
    photos = dispatcher(preprocessor.preprocess)
    first = photos.submit(b"running", ANY, "first")
    await preprocessor.called()
    second, large = photos.submit(b"waiting", ANY, "second"), photos.submit(LARGE, ANY, "third")
    await asyncio.sleep(0.05)
    preprocessor.gate.set()
    first, second, large = await asyncio.gather(first, second, large)
    assert second.waited_s >= 0.05 > first.waited_s
    assert (first.stage, large.stage) == ("small_photos_queue", "large_photos_queue")
    assert first.trace == second.trace == TRACE
    assert [photo.request_id for photo in preprocessor.groups[0].photos] == ["first"]


async def test_photos_of_one_request_are_refused_by_what_waits_before_them(
    preprocessor, monkeypatch
):
    photos = dispatcher(preprocessor.preprocess)
    refusals = [None, Overloaded("long"), Overloaded("long")]
    monkeypatch.setattr(photos._small, "refusal", lambda: refusals.pop(0))
    submitted = photos.submit_all([SMALL, LARGE, SMALL, SMALL], ANY, "id")
    assert not any(future.done() for future in submitted)
    *small, large = photos.submit_all([SMALL, SMALL, LARGE], ANY, "id")
    assert all(isinstance(future.exception(), Overloaded) for future in small)
    preprocessor.gate.set()
    await asyncio.gather(*submitted, large)


async def test_queue_lengths_are_recorded_by_lane(preprocessor):
    recorder = Recording()
    photos = dispatcher(preprocessor.preprocess, recorder=recorder)
    running = photos.submit(SMALL, ANY, "id")
    await preprocessor.called()
    waiting = [photos.submit(SMALL, ANY, "id") for _ in range(3)]
    photos.set_gauges()
    assert recorder.values(QUEUE_LENGTH, queue="small_photos") == [3]
    assert recorder.values(QUEUE_LENGTH, queue="large_photos") == [0]
    preprocessor.gate.set()
    await asyncio.gather(running, *waiting)

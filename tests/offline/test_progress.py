"""Claims about what a person sees while a run goes on."""

import io

import pytest

from offline import progress
from offline.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_rate_counts_from_the_first_part_on_and_says_when_the_end_is(clock):
    told = Progress(io.StringIO(), 1_000_000, 400_000)
    assert told.line() == "400,000 of 1,000,000 photos (40%), starting"
    clock[0] += 20  # Ray starts
    told.add(2_000, 0, 1.0)
    assert told.line() == "402,000 of 1,000,000 photos (40%), 2,000 photos/s, 5 min left"
    clock[0] += 1
    told.add(4_000, 3, 1.0)
    assert told.line() == "406,000 of 1,000,000 photos (41%), 3 failed, 3,000 photos/s, 3 min left"


def test_the_rate_is_that_of_the_last_minute(clock):
    told = Progress(io.StringIO(), 10_000, 0)
    told.add(1_000, 0, 1.0)
    for _ in range(200):
        clock[0] += 1
        told.add(10, 0, 1.0)
    assert "10 photos/s" in told.line()


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (600, "10 min"), (3 * 3600 + 1200, "3 h 20 min")]
)
def test_durations_are_rounded_to_what_a_person_needs(seconds, text):
    assert duration(seconds) == text

"""Claims about the estimate of how fast a queue moves."""

import pytest

from deployments.pipeline.pace import Pace


def run(pace, slots, items, took_s, batches, at=100.0):
    """Batches of one size in all slots, evenly staggered; then all slots are free."""
    ends = sorted(at + n * took_s / slots + took_s for n in range(batches))
    starts = [end - took_s for end in ends]
    events = sorted(
        [(s, 1, s) for s in starts] + [(e, 0, s) for e, s in zip(ends, starts, strict=True)]
    )
    full_at_start, taken = {}, 0
    for now, is_start, started in events:
        if is_start:
            taken += 1
            full_at_start[started] = pace.full_s(now)
            pace.taken(taken, now)
        else:
            full_s = pace.full_s(now) - full_at_start[started]
            pace.ran(items, took_s, full_s, now)
            taken -= 1
            pace.taken(taken, now)
    return ends[-1]


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_slots_side_by_side_add_up(slots):
    pace = Pace(slots)
    run(pace, slots, items=10, took_s=0.2, batches=50)
    assert pace.seconds_per_item == pytest.approx(0.2 / 10 / slots, rel=0.15)


def test_it_follows_a_change_within_seconds():
    pace = Pace(2)
    end = run(pace, 2, items=10, took_s=0.2, batches=50)
    run(pace, 2, items=10, took_s=0.4, batches=20, at=end)
    assert pace.seconds_per_item == pytest.approx(0.4 / 10 / 2, rel=0.15)


def test_a_batch_beside_a_free_slot_tells_nothing():
    pace = Pace(2)
    pace.taken(1, 100.0)
    pace.ran(1, 0.2, pace.full_s(100.2), 100.2)
    assert pace.seconds_per_item == 0

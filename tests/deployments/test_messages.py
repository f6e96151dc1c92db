"""Claims about what crosses between deployments."""

import pickle
import time

from deployments.messages import Deadline, Trace


def test_a_pickled_deadline_carries_what_is_left_not_a_clock():
    text = pickle.dumps(Deadline.after(5.0))
    assert 4.5 < pickle.loads(text).left_s() <= 5.0  # noqa: S301
    long_ago = Deadline(time.monotonic() - 3600)
    assert pickle.loads(pickle.dumps(long_ago)).left_s() < -3599  # noqa: S301


def test_traces_of_parallel_ways_merge_to_the_longest_of_each_stage():
    one = Trace({"decode": 0.1, "inference": 0.3}, 7, "color/1")
    other = Trace({"decode": 0.2}, 9, "category/1")
    assert Trace.merge([one]) is one
    assert Trace.merge([one, other, one]) == (
        {"decode": 0.2, "inference": 0.3}, 9, "color/1+category/1",
    )  # fmt: skip
    assert Trace.merge([]) == ({}, 0, "")

"""Claims about what crosses between deployments."""

from deployments.messages import Trace


def test_traces_of_parallel_ways_merge_to_the_longest_of_each_stage():
    one = Trace({"decode": 0.1, "inference": 0.3}, 7, "color/1")
    other = Trace({"decode": 0.2}, 9, "category/1")
    assert Trace.merge([one]) is one
    assert Trace.merge([one, other, one]) == (
        {"decode": 0.2, "inference": 0.3}, 9, "color/1+category/1",
    )  # fmt: skip
    assert Trace.merge([]) == ({}, 0, "")

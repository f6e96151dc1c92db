"""Claims about the simulated pipeline: it takes what its stages take, and batches as served."""

import sys
from dataclasses import replace

import pytest

from capacity.simulation import Composition, Cost, Costs, simulate
from deployments.pipeline.batcher import BatchLimits

FREE = Cost(0, 0)
ENGINE = Costs(
    client=FREE, front=FREE, ingress=FREE, preprocessor=FREE, classifier=FREE,
    engine=Cost(0.05, 0.01), engine_takes_core=False, hop_s=0.0,
)  # fmt: skip


def latencies(*args, **options):
    return simulate(*args, **options).latencies_s


def composition(batch=10, classifiers=1, waiting=sys.maxsize, cores=None):
    group = BatchLimits(batch, sys.maxsize, 2 * classifiers, waiting)
    batches = BatchLimits(batch, sys.maxsize, 1, sys.maxsize)
    return Composition(group, batches, classifiers=classifiers, cores=cores)


def end_s(costs, composition, rate, seconds):
    """When the last of photos that all come in the first moment was answered."""
    return max(latencies(costs, composition, rate / 1e-6, 1e-6 * seconds))


def test_a_photo_that_is_alone_takes_the_sum_of_its_stages_and_two_hops():
    costs = Costs(
        client=Cost(0, 0.001), front=Cost(0, 0.002), ingress=Cost(0.003, 0.004),
        preprocessor=Cost(0.005, 0.006), classifier=Cost(0.007, 0.008), engine=Cost(0.009, 0.01),
        engine_takes_core=True, hop_s=0.1,
    )  # fmt: skip
    for latency in latencies(costs, composition(), 0.1, 100):
        assert latency == pytest.approx(0.001 * sum(range(1, 11)) + 0.2)


def test_under_overload_batches_are_full():
    """200 photos at once, in batches of 10: twenty batches of 0.15 s, but for the first few."""
    took_s = end_s(ENGINE, composition(), 200, 1)
    photos = len(latencies(ENGINE, composition(), 200 / 1e-6, 1e-6))
    assert photos / took_s == pytest.approx(10 / 0.15, rel=0.1)


def test_four_classifiers_do_four_times_as_much():
    one = end_s(ENGINE, composition(), 2000, 1)
    four = end_s(ENGINE, composition(classifiers=4), 2000, 1)
    assert one / four == pytest.approx(4, rel=0.05)


def test_light_load_waits_for_no_batch_to_fill():
    slow = [latency for latency in latencies(ENGINE, composition(), 1, 200) if latency > 0.0601]
    assert len(slow) < 20  # those that met another


def test_processes_that_share_a_core_take_turns():
    costs = replace(
        ENGINE, preprocessor=Cost(0, 0.01), engine=Cost(0, 0.01), engine_takes_core=True
    )
    shared, apart = composition(batch=1, cores=1), composition(batch=1)
    assert end_s(costs, shared, 300, 1) / end_s(costs, apart, 300, 1) == pytest.approx(2, rel=0.05)


def test_an_engine_elsewhere_takes_no_core():
    costs = replace(ENGINE, preprocessor=Cost(0, 0.01), engine=Cost(0, 0.01))
    shared, apart = composition(batch=1, cores=1), composition(batch=1)
    assert end_s(costs, shared, 300, 1) == pytest.approx(end_s(costs, apart, 300, 1), rel=0.05)


def test_a_photo_is_refused_where_too_many_wait():
    refused = latencies(ENGINE, composition(waiting=5), 1000, 1).count(float("inf"))
    assert refused > 500
    assert float("inf") not in latencies(ENGINE, composition(waiting=5), 5, 10)


def test_the_same_seed_is_the_same_run_and_another_is_not():
    one, same = (latencies(ENGINE, composition(), 50, 5, seed=3) for _ in range(2))
    assert one == same
    assert one != latencies(ENGINE, composition(), 50, 5, seed=4)


def test_core_seconds_are_those_of_what_serves_and_computes_here():
    free, stage = replace(ENGINE, client=Cost(0, 0.0001)), Cost(0.002, 0.001)
    assert simulate(free, composition(), 5, 10).core_s == 0
    busy = replace(free, preprocessor=stage, engine=stage, engine_takes_core=True)
    alone = simulate(busy, composition(batch=1), 5, 10).core_s
    assert alone == pytest.approx(0.006)
    assert 0.002 < simulate(busy, composition(), 500, 5).core_s < alone

"""Claims about how many replicas are wanted."""

from types import SimpleNamespace

import pytest
from ray.serve.config import AutoscalingConfig

from deployments.pipeline.autoscaling import (
    GROUPS_HELD,
    PHOTOS_HELD,
    REQUESTS_HELD,
    groups_per_replica,
    photos_per_replica,
    requests_per_replica,
)


def wanted(held, target=24, replicas=2, stat=PHOTOS_HELD, policy=photos_per_replica):
    metrics = {stat: dict(enumerate(held))} if held else {}
    config = AutoscalingConfig(max_replicas=9, target_ongoing_requests=target)
    context = SimpleNamespace(
        aggregated_metrics=metrics, config=config, target_num_replicas=replicas
    )
    return policy(context)[0]


def test_photos_not_calls_decide_how_many_replicas():
    assert wanted([40, 32]) == 3
    assert wanted([24]) == 1


def test_half_the_photos_want_half_the_replicas():
    assert wanted([10, 14]) == pytest.approx(wanted([20, 28]) / 2)


def test_nothing_changes_before_a_replica_has_told_what_it_holds():
    assert wanted([], replicas=2) == 2


def test_groups_decide_how_many_preprocessors():
    assert wanted([6, 6], target=4, stat=GROUPS_HELD, policy=groups_per_replica) == 3
    assert wanted([], replicas=2, stat=GROUPS_HELD, policy=groups_per_replica) == 2


def test_requests_decide_how_many_ingresses():
    ingresses = {"stat": REQUESTS_HELD, "policy": requests_per_replica}
    assert wanted([100, 44], target=48, **ingresses) == 3
    assert wanted([], replicas=2, **ingresses) == 2

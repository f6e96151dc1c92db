"""Claims about routing: a call goes to the replica that has the fewest of this caller's."""

from collections import Counter
from types import SimpleNamespace

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID
from ray.serve._private.utils import import_attr

from deployments.app import build
from deployments.pipeline.routing import ROUTER, FewestCalls


class Replica(SimpleNamespace):
    """As much of a replica as routing looks at."""


REPLICAS = [Replica(replica_id=name) for name in "abcd"]


@pytest.fixture
async def router():
    router = FewestCalls(DeploymentID("Classifier", "mlc"), DeploymentHandleSource.REPLICA)
    router.initialize_state()
    return router


async def first(router, candidates=REPLICAS):
    ranks = await router.choose_replicas(list(candidates))
    assert ranks[-1] == list(candidates)  # should the best one be full
    (best,) = ranks[0]
    return best.replica_id


async def test_calls_are_spread_evenly(router):
    sent = Counter()
    for _ in range(40):
        name = await first(router)
        router.on_send_request(name)
        sent[name] += 1
    assert sent == dict.fromkeys("abcd", 10)


async def test_a_replica_that_is_slow_is_sent_less(router):
    """`a` never answers, the others at once."""
    for name in "aabcd":
        router.on_send_request(name)
    for number in range(100):
        name = await first(router)
        assert name != "a"
        router.on_send_request(name)
        router.on_request_completed(name, str(number))


async def test_the_first_to_answer_is_the_next_to_be_sent_to(router):
    for name in "abcd":
        router.on_send_request(name)
    router.on_request_completed("c", "1")
    assert await first(router) == "c"


async def test_among_equals_chance_decides(router):
    assert {await first(router) for _ in range(200)} == set("abcd")


async def test_what_a_replica_tells_late_of_its_queue_changes_nothing(router):
    for name in "abc":
        router.on_send_request(name)
    router.on_new_queue_len_info("d", 50)
    assert await first(router) == "d"


async def test_a_replica_that_went_is_forgotten(router):
    router.on_send_request("a")
    router.on_request_completed("a", "1")
    assert not router._in_flight


def test_the_composition_routes_so_to_the_preprocessor_and_to_every_classifier():
    assert import_attr(ROUTER.request_router_class) is FewestCalls
    application = build({"classifiers": ["color", "category"]})
    preprocessor, classifiers, *_ = application._bound_deployment.init_args
    for inner in (preprocessor, *classifiers):
        assert inner._bound_deployment._deployment_config.request_router_config == ROUTER

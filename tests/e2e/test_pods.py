"""The manifests' Ray cluster without Kubernetes: each pod's node in a network of its own."""

import pytest
from manifests import groups, of_kind, ray_service, render
from pods import CLASSIFIER, FRONT, SPARE
from sandbox import run_nodes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found():
    """What the laptop's overlay does on four nodes of this machine."""
    objects = render("kind")
    (flags,) = [
        each["data"] for each in of_kind(objects, "ConfigMap")
        if each["metadata"]["name"].startswith("mlc-cluster-env")
    ]  # fmt: skip
    front = groups(objects)["front"]
    asked = {
        "env": flags,
        "config": ray_service(objects)["spec"]["serveConfigV2"],
        "groups": {n: {"labels": g.labels, "cpus": g.cpus} for n, g in groups(objects).items()},
        "readiness": front.container["readinessProbe"]["httpGet"]["path"],
    }
    found = run_nodes("pods.py", asked, 280)
    grace_s = front.pod["spec"]["terminationGracePeriodSeconds"]
    return found | {"grace_s": grace_s}


def test_replicas_run_where_their_group_is_and_none_on_the_head(found):
    assert found["placed"] == {
        "Ingress": [["RUNNING", FRONT]],
        "Preprocessor": [["RUNNING", FRONT]],
        "Classifier": [["RUNNING", CLASSIFIER]],
    }


def test_probes_and_metrics_need_no_token_and_all_else_does(found):
    assert found["health"] == found["metrics"] == [200, 200, 200]
    assert found["without_token"] == 401


def test_a_pod_that_is_told_to_end_loses_no_request(found):
    """Its replicas move first, its ingress drains: longer than Ray would wait by itself."""
    assert set(found["answers"]) == {"200"}
    assert 30 < found["drained_s"] < found["grace_s"] - 10
    placed = found["placed_then"]
    assert placed["Preprocessor"] == [["RUNNING", SPARE]]
    assert placed["Ingress"] == [["RUNNING", SPARE]]
    assert placed["Classifier"] == [["RUNNING", CLASSIFIER]]

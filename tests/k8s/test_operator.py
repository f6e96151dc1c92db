"""Claims about what KubeRay 1.7 itself refuses, read from its validation.go and service.go.

A manifest that it refuses is accepted by the API server, and then nothing happens.
"""

import copy
import re

import pytest
from manifests import groups, ray_service, render


def _upgrade(spec):
    strategy = spec["upgradeStrategy"]
    kind, options = strategy["type"], strategy.get("clusterUpgradeOptions", {})
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
    incremental = kind == "NewClusterWithIncrementalUpgrade"
    autoscaled = spec["rayClusterConfig"].get("enableInTreeAutoscaling")
    named = options.get("intervalSeconds", 0) > 0 and options.get("gatewayClassName")
    yield "upgrade type", kind in {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"}
    yield "upgrade steps", not incremental or 0 <= step <= surge <= 100
    yield "upgrade options", not incremental or named
    yield "upgrade without autoscaling", not incremental or autoscaled
    yield "upgradeStrategy of the cluster", "upgradeStrategy" not in spec["rayClusterConfig"]


def _head(cluster):
    head = cluster["headGroupSpec"]
    container = head["template"]["spec"]["containers"][0]
    env = {variable["name"] for variable in container.get("env", [])}
    tolerant = "gcsFaultToleranceOptions" in cluster
    version = tuple(map(int, cluster.get("rayVersion", "0.0.0").split(".")))
    token = cluster.get("authOptions", {}).get("mode") == "token"
    yield "token without a Ray that knows it", not token or version >= (2, 52, 0)
    yield "no port for the Service", "serve" in {port["name"] for port in container["ports"]}
    yield "headService is named", "name" not in head.get("headService", {}).get("metadata", {})
    yield "Redis told twice", not {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & env
    yield (
        "Redis' password told twice",
        not tolerant or "redis-password" not in head["rayStartParams"],
    )
    yield "autoscaler's version told twice", "RAY_enable_autoscaler_v2" not in env


def _group(group):
    texts = all(isinstance(value, str) for value in group["rayStartParams"].values())
    restart = group["template"]["spec"].get("restartPolicy", "Never")
    yield "rayStartParams are no texts", texts
    yield "labels of rayStartParams", "labels" not in group["rayStartParams"]
    yield "restartPolicy with autoscaler v2", restart == "Never"
    yield "replicas of a group", 0 <= group.get("minReplicas", 0) <= group.get("maxReplicas", 0)


def faults(service):
    """What the operator would refuse, or need, in a RayService."""
    name, spec = service["metadata"]["name"], service["spec"]
    cluster = spec["rayClusterConfig"]
    label = re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    rules = [("name", label and len(name) <= 47), *_upgrade(spec), *_head(cluster)]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        rules += _group(group)
    return [rule for rule, holds in rules if not holds]


def test_the_operator_refuses_nothing(any_objects):
    assert faults(ray_service(any_objects)) == []


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("metadata.name", "m" * 48, "name"),
        ("metadata.name", "1mlc", "name"),
        ("spec.upgradeStrategy.type", "Rolling", "upgrade type"),
        ("spec.upgradeStrategy.clusterUpgradeOptions.stepSizePercent", 60, "upgrade steps"),
        ("spec.upgradeStrategy.clusterUpgradeOptions.intervalSeconds", 0, "upgrade options"),
        ("spec.rayClusterConfig.enableInTreeAutoscaling", False, "upgrade without autoscaling"),
        ("spec.rayClusterConfig.rayVersion", "2.51.0", "token without a Ray that knows it"),
        ("spec.rayClusterConfig.workerGroupSpecs.1.minReplicas", 99, "replicas of a group"),
        ("spec.rayClusterConfig.workerGroupSpecs.0.template.spec.restartPolicy", "Always",
         "restartPolicy with autoscaler v2"),
        ("spec.rayClusterConfig.headGroupSpec.rayStartParams.redis-password", "x",
         "Redis' password told twice"),
        ("spec.rayClusterConfig.headGroupSpec.rayStartParams.num-cpus", 0,
         "rayStartParams are no texts"),
    ],
)  # fmt: skip
def test_what_the_operator_refuses_is_found(path, value, fault):
    service = copy.deepcopy(ray_service(render("cpu", "incremental-upgrade", "redis")))
    at = service
    *way, last = path.split(".")
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    at[last] = value
    assert fault in faults(service)


def test_the_autoscaler_is_the_second_and_the_head_takes_no_replica(any_objects):
    spec = ray_service(any_objects)["spec"]
    assert spec["rayClusterConfig"]["enableInTreeAutoscaling"] is True
    assert spec["rayClusterConfig"]["autoscalerOptions"]["version"] == "v2"
    assert spec["excludeHeadPodFromServeSvc"] is True
    assert groups(any_objects)["head"].cpus == 0

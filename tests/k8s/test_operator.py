"""Claims about what KubeRay 1.7 itself refuses, read from its validation.go and service.go.

A manifest that it refuses is accepted by the API server, and then nothing happens.
"""

import copy
import re

import pytest
from manifests import groups, ray_service, render


def faults(service):
    """What the operator would refuse, or need, in a RayService."""
    found = []
    name, spec = service["metadata"]["name"], service["spec"]
    if len(name) > 47 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        found.append("name")
    strategy = spec.get("upgradeStrategy", {})
    options = strategy.get("clusterUpgradeOptions", {})
    cluster = spec["rayClusterConfig"]
    if strategy.get("type") not in {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"}:
        found.append("upgrade type")
    if strategy.get("type") == "NewClusterWithIncrementalUpgrade":
        surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
        if not 0 <= step <= surge <= 100:
            found.append("upgrade steps")
        if options.get("intervalSeconds", 0) <= 0 or not options.get("gatewayClassName"):
            found.append("upgrade options")
        if not cluster.get("enableInTreeAutoscaling"):
            found.append("upgrade without autoscaling")
    if "upgradeStrategy" in cluster:
        found.append("upgradeStrategy of the cluster")
    version = tuple(map(int, cluster.get("rayVersion", "0.0.0").split(".")))
    if cluster.get("authOptions", {}).get("mode") == "token" and version < (2, 52, 0):
        found.append("token without a Ray that knows it")
    head = cluster["headGroupSpec"]
    container = head["template"]["spec"]["containers"][0]
    if "serve" not in {port["name"] for port in container["ports"]}:
        found.append("no port for the Service")
    if head.get("headService", {}).get("metadata", {}).get("name"):
        found.append("headService is named")
    env = {variable["name"] for variable in container.get("env", [])}
    if "gcsFaultToleranceOptions" in cluster:
        if {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & env:
            found.append("Redis told twice")
        if "redis-password" in head["rayStartParams"]:
            found.append("Redis' password told twice")
    elif "RAY_REDIS_ADDRESS" in env:
        found.append("Redis without gcsFaultToleranceOptions")
    if "RAY_enable_autoscaler_v2" in env:
        found.append("autoscaler's version told twice")
    for group in (head, *cluster["workerGroupSpecs"]):
        if not all(isinstance(value, str) for value in group["rayStartParams"].values()):
            found.append("rayStartParams are no texts")
        if "labels" in group["rayStartParams"]:
            found.append("labels of rayStartParams")
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            found.append("restartPolicy with autoscaler v2")
    for group in cluster["workerGroupSpecs"]:
        if not 0 <= group["minReplicas"] <= group["maxReplicas"]:
            found.append("replicas of a group")
    return found


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

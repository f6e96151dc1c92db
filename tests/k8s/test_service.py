"""Claims about how the service runs on these manifests: flags, draining, resources, scaling."""

import importlib
import math

import pytest
import ray
import yaml
from manifests import (
    COMPONENTS,
    OVERLAYS,
    PROJECT,
    application,
    cores,
    deployments,
    groups,
    of_kind,
    ray_service,
    render,
    serve_config,
)
from ray._private import ray_constants
from ray.serve._private import constants as serve_constants
from ray.serve.schema import ServeDeploySchema

from deployments.app import FAST_FLAGS
from deployments.http import draining, haproxy
from deployments.serve_config import ServeConfig
from deployments.settings import Settings, parse
from launcher.environment import cluster_env

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"


def environments(objects):
    """The names of the ConfigMaps that Ray's pods start with."""
    sources = [s for group in groups(objects).values() for s in group.container["envFrom"]]
    return {source["configMapRef"]["name"] for source in sources}


def environment(objects):
    (used,) = environments(objects)
    (config,) = [c for c in of_kind(objects, "ConfigMap") if c["metadata"]["name"] == used]
    return config["data"]


# Ray 2.60 announces environment variables in its place, and does not read them.
@pytest.mark.filterwarnings("ignore:The `metrics_interval_s` field:DeprecationWarning")
def test_serve_and_we_understand_the_config(objects):
    config = serve_config(objects)
    ServeDeploySchema.model_validate(config)
    ServeConfig(config).check()


def test_the_base_says_a_whole_config_too():
    patch = yaml.safe_load((PROJECT / "k8s/base/serve_config.rendered.yaml").read_text())
    ServeConfig(yaml.safe_load(patch["spec"]["serveConfigV2"])).check()


def test_head_and_workers_start_with_the_same_environment(any_objects):
    assert cluster_env().items() <= environment(any_objects).items()
    assert all(environment(any_objects)[flag] == "1" for flag in FAST_FLAGS)
    own = {
        name: [each for each in group.container.get("env", []) if each["name"] != "PGPASSWORD"]
        for name, group in groups(any_objects).items()
    }
    drain = {"name": DRAIN, "value": "0"}
    assert own == {"head": [drain], "front": [], "classifier": []}


def test_another_environment_is_another_cluster(objects):
    """Its ConfigMap's name has a hash, which is in the pods' template."""
    (name,) = environments(objects)
    assert name.startswith("mlc-cluster-env-")


def test_pods_have_the_time_that_draining_takes(any_objects):
    assert hasattr(ray_constants, DRAIN)
    drain_s = float(environment(any_objects)[DRAIN])
    ingress_s = (
        serve_constants.RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S
        + serve_constants.RAY_SERVE_DIRECT_INGRESS_SHUTDOWN_BUFFER_S
    )
    assert drain_s >= 2 * ingress_s  # a replacement comes first
    assert drain_s > serve_constants.PROXY_MIN_DRAINING_PERIOD_S > 2 * haproxy._KEEP_S
    for name, group in groups(any_objects).items():
        grace_s = group.pod["spec"]["terminationGracePeriodSeconds"]
        if name == "head":  # the next one waits for it
            assert grace_s <= 10
            continue
        command, *words = group.container["lifecycle"]["preStop"]["exec"]["command"]
        assert command == draining.COMMAND
        limits = dict(zip(words[::2], map(float, words[1::2]), strict=True))
        assert limits["--at-least-s"] >= 5
        # A connection is used once more within that time, and closed.
        assert limits["--at-most-s"] > 2 * haproxy._KEEP_S + limits["--at-least-s"]
        assert grace_s >= limits["--at-most-s"] + drain_s + 20
    assert ray_service(any_objects)["spec"]["rayClusterDeletionDelaySeconds"] >= 60


def test_budgets_let_one_node_be_drained_at_a_time(objects, overlay):
    """As numbers: KubeRay's RayCluster has no scale that a percentage could be read from."""
    for budget in of_kind(objects, "PodDisruptionBudget"):
        assert "maxUnavailable" not in budget["spec"]
        assert isinstance(budget["spec"]["minAvailable"], int)
        group = groups(objects)[budget["metadata"]["name"].removeprefix("mlc-")]
        if group.name != "head":
            assert budget["spec"]["minAvailable"] < group.least
    if overlay != "kind":
        names = {budget["metadata"]["name"] for budget in of_kind(objects, "PodDisruptionBudget")}
        assert names == {"mlc-head", "mlc-front", "mlc-classifier"}


def test_the_ray_that_is_named_is_the_ray_that_is_installed(objects):
    version = ray_service(objects)["spec"]["rayClusterConfig"]["rayVersion"]
    assert version == ray.__version__
    assert f"ray=={version}" in (PROJECT / "requirements.lock").read_text().splitlines()


def tenants(objects, group):
    """The deployments whose replicas run on a group's pods."""
    return [
        each for each in deployments(objects).values()
        if each["ray_actor_options"]["label_selector"].items() <= group.labels.items()
    ]  # fmt: skip


def test_a_pod_has_room_for_exactly_one_replica_of_each_deployment_of_its_group(objects):
    """Else two replicas may share a pod, and an empty one is never ready and blocks each drain."""
    workers = {name: group for name, group in groups(objects).items() if name != "head"}
    homes = [each["name"] for group in workers.values() for each in tenants(objects, group)]
    assert sorted(homes) == sorted(deployments(objects))
    for group in workers.values():
        options = [each["ray_actor_options"] for each in tenants(objects, group)]
        cpus = sum(each["num_cpus"] for each in options)
        assert cores(group.container["resources"]["requests"]["cpu"]) == pytest.approx(cpus)
        assert group.gpus == sum(each.get("num_gpus", 0) for each in options)
        assert {each["max_replicas_per_node"] for each in tenants(objects, group)} == {1}


def test_a_group_has_as_many_pods_as_its_deployments_have_replicas(objects):
    for name, group in groups(objects).items():
        for deployment in tenants(objects, group) if name != "head" else ():
            scaling = deployment["autoscaling_config"]
            assert (group.least, group.most) == (scaling["min_replicas"], scaling["max_replicas"])


def test_serve_does_not_say_that_it_will_never_scale(objects):
    for deployment in deployments(objects).values():
        target = deployment["autoscaling_config"]["target_ongoing_requests"]
        assert deployment["max_ongoing_requests"] >= target


def test_requested_cpus_are_those_that_ray_gives_away(objects):
    for name, group in groups(objects).items():
        resources = group.container["resources"]
        assert "cpu" not in resources["limits"]
        assert resources["limits"]["memory"] == resources["requests"]["memory"]
        if name != "head":
            assert group.cpus == math.ceil(cores(resources["requests"]["cpu"]))


def test_gpus_are_for_classifiers_alone():
    gpu = render("gpu", *COMPONENTS)
    assert {name: group.gpus for name, group in groups(gpu).items()} == {
        "head": 0, "front": 0, "classifier": 1,
    }  # fmt: skip
    for name, deployment in deployments(gpu).items():
        wants = deployment["ray_actor_options"].get("num_gpus", 0)
        assert wants == (1 if name == "Classifier" else 0)
    images = {name: group.container["image"] for name, group in groups(gpu).items()}
    assert {name: image.partition(":")[0] for name, image in images.items()} == {
        "head": "mlc", "front": "mlc", "classifier": "mlc-gpu",
    }  # fmt: skip
    assert deployments(gpu)["Classifier"]["user_config"]["engine"] == "tensorflow"
    for overlay in set(OVERLAYS) - {"gpu"}:
        assert not any(group.gpus for group in groups(render(overlay)).values())


def test_classifiers_scale_on_one_to_two_batches_of_photos(objects):
    settings = parse(Settings, application(objects)["args"])
    scaling = deployments(objects)["Classifier"]["autoscaling_config"]
    batch = settings.batching.max_images
    assert batch <= scaling["target_ongoing_requests"] <= 2 * batch
    module, _, name = scaling["policy"]["policy_function"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_ingresses_can_hold_the_photos_that_the_last_classifier_is_wanted_for(objects):
    """Else the classifiers' number would stop growing before its bound."""
    settings = parse(Settings, application(objects)["args"])
    scaling = {name: d["autoscaling_config"] for name, d in deployments(objects).items()}
    lane = settings.small_lane
    held = scaling["Ingress"]["max_replicas"] * lane.max_in_flight * lane.max_photos
    last = scaling["Classifier"]
    assert held >= last["max_replicas"] * last["target_ongoing_requests"]


def test_a_spike_is_met_and_a_dip_is_not_chased(objects, overlay):
    for deployment in deployments(objects).values():
        scaling = deployment["autoscaling_config"]
        assert deployment["num_replicas"] == "auto"
        assert scaling["upscale_delay_s"] + scaling["look_back_period_s"] <= 30
        assert scaling["downscale_delay_s"] >= (30 if overlay == "kind" else 300)


def test_two_of_everything_run_where_a_node_may_be_lost(objects, overlay):
    if overlay != "kind":
        fewest = [d["autoscaling_config"]["min_replicas"] for d in deployments(objects).values()]
        fewest += [group.least for name, group in groups(objects).items() if name != "head"]
        assert min(fewest) >= 2


def test_the_policy_is_named_in_one_place():
    named = [
        path for path in (PROJECT / "k8s").rglob("*.patch.yaml")
        if "policy_function" in path.read_text(encoding="utf-8")
    ]  # fmt: skip
    assert [path.parent.name for path in named] == ["base"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_component_similar_adds_the_deployment_that_searches(overlay):
    objects = render(overlay, "similar")
    assert application(objects)["args"]["catalog"] == "postgresql://mlc@mlc-postgres/mlc"
    assert deployments(objects).keys() - deployments(render(overlay)).keys() == {"SimilarProducts"}
    own = groups(objects)["front"].container["env"]
    assert [each["name"] for each in own] == ["PGPASSWORD"]
    assert "password" not in application(objects)["args"]["catalog"]

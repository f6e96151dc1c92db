"""Claims about how the service runs on these manifests: flags, draining, resources, scaling."""

import importlib

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
from deployments.serve_config import ServeConfig
from deployments.settings import Settings, parse
from launcher.environment import cluster_env


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
    for group in groups(any_objects).values():
        assert "env" not in group.container  # which would override it


def test_another_environment_is_another_cluster(objects):
    """Its ConfigMap's name has a hash, which is in the pods' template."""
    (name,) = environments(objects)
    assert name.startswith("mlc-cluster-env-")


def test_pods_have_the_time_that_draining_takes(any_objects):
    variable = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    assert hasattr(ray_constants, variable)
    drain_s = float(environment(any_objects)[variable])
    ingress_s = (
        serve_constants.RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S
        + serve_constants.RAY_SERVE_DIRECT_INGRESS_SHUTDOWN_BUFFER_S
    )
    assert drain_s >= 2 * ingress_s  # a replacement comes first
    for name, group in groups(any_objects).items():
        before_s = 0.0
        if name != "head":
            (_, wait) = group.container["lifecycle"]["preStop"]["exec"]["command"]
            before_s = float(wait)
            assert before_s >= 5
        grace_s = group.pod["spec"]["terminationGracePeriodSeconds"]
        assert grace_s >= max(90, before_s + drain_s + 20)
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


def where(objects):
    """{group: [(CPUs, GPUs) of a replica, fewest, most]}."""
    placed = {name: [] for name in groups(objects) if name != "head"}
    for deployment in deployments(objects).values():
        options = deployment["ray_actor_options"]
        (group,) = [
            g.name for g in groups(objects).values()
            if g.labels and options["label_selector"].items() <= g.labels.items()
        ]  # fmt: skip
        scaling = deployment["autoscaling_config"]
        need = (options["num_cpus"], options.get("num_gpus", 0))
        placed[group].append((need, scaling["min_replicas"], scaling["max_replicas"]))
    return placed


def fits(needs, nodes):
    """Whether replicas find a place, the largest first, each on the first node that has one."""
    nodes = [list(node) for node in nodes]
    for need in sorted(needs, reverse=True):
        for node in nodes:
            if all(free + 1e-9 >= part for free, part in zip(node, need, strict=True)):
                node[:] = [free - part for free, part in zip(node, need, strict=True)]
                break
        else:
            return False
    return True


def test_replicas_fit_the_workers_at_their_fewest_and_at_their_most(objects):
    for name, replicas in where(objects).items():
        group = groups(objects)[name]
        node = (group.cpus, group.gpus)
        fewest = [need for need, few, _ in replicas for _ in range(few)]
        most = [need for need, _, many in replicas for _ in range(many)]
        assert fits(fewest, [node] * group.least)
        assert fits(most, [node] * group.most)


def test_the_fit_is_one_that_can_fail():
    assert fits([(2, 0), (1, 0), (1, 0)], [(4, 0)])
    assert not fits([(2, 0), (2, 0), (1, 0)], [(4, 0)])
    assert not fits([(1, 1), (1, 1)], [(4, 1)])


def test_requested_cpus_are_those_that_ray_gives_away(objects):
    for name, group in groups(objects).items():
        resources = group.container["resources"]
        assert "cpu" not in resources["limits"]
        assert resources["limits"]["memory"] == resources["requests"]["memory"]
        if name != "head":
            assert group.cpus == cores(resources["requests"]["cpu"])


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

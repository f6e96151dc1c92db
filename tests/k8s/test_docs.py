"""Claims of docs/kubernetes.md: its commands, as far as they can be checked without a cluster."""

import functools
import importlib.util
import json
import re
import shlex
import subprocess

import pytest
from dockerfile import TARGETS, stages
from manifests import (
    COMPONENTS,
    OVERLAYS,
    PROJECT,
    cores,
    groups,
    need_kubectl,
    pods,
    ray_service,
    render,
)

PAGE = (PROJECT / "docs/kubernetes.md").read_text(encoding="utf-8")
README = (PROJECT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
KUBECTL = [
    found[0].partition(" | ")[0] for line in COMMANDS
    if (found := re.search(r"kubectl .*", line))
]  # fmt: skip
# What a reader fills in, and what KubeRay makes of the RayService mlc.
THEIRS = {"CLUSTER", "NODE"}
MADE = {"service/mlc-serve-svc", "service/mlc-head-svc"}
SHOPS = {"service/mlc-postgres"}  # the database that the component `similar` expects


def everything():
    return [each for overlay in OVERLAYS for each in render(overlay, *COMPONENTS)]


@functools.cache
def help_of(*command):
    need_kubectl()
    done = subprocess.run(
        ["kubectl", *command, "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def known_options(*command):
    """The options that a kubectl command takes: {--long and -s}."""
    text = (
        help_of(*command)
        + subprocess.run(
            ["kubectl", "options"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    )
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*(?==|:|,|\s)", text))


def parsed(command):
    """Kubectl's words: the subcommand, its options, its other words."""
    words = shlex.split(command)[1:]
    words = words[: words.index("--")] if "--" in words else words
    options, rest = {}, []
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, _, value = word.partition("=")
            options[name] = value
        elif word in {"-i", "-w"}:
            options[word] = ""
        elif word.startswith("-"):
            options[word] = words.pop(0)
        else:
            rest.append(word)
    return rest[0], options, rest[1:]


@pytest.mark.parametrize("command", KUBECTL)
def test_kubectl_knows_the_command_and_its_options(command):
    subcommand, options, _ = parsed(command)
    path = ("create", "secret", "generic") if subcommand == "create" else (subcommand,)
    assert f"kubectl {' '.join(path)}" in help_of(*path)
    assert set(options) <= known_options(*path)


def test_kubectl_does_not_know_everything():
    need_kubectl()
    assert "--every-namespace" not in known_options("get")


@pytest.mark.parametrize("command", KUBECTL)
def test_what_a_command_names_is_there(command):
    subcommand, options, words = parsed(command)
    if folder := options.get("-k"):
        assert render((PROJECT / folder).name)
    if "-n" in options:
        assert options["-n"] == "mlc"
    labels = [pod["metadata"]["labels"] for pod in pods(render("cpu")).values()]
    if label := options.get("-l"):
        key, _, value = label.partition("=")
        assert value in {each.get(key) for each in labels}
    if container := options.get("-c"):
        names = {
            c["name"] for pod in pods(render("cpu")).values() for c in pod["spec"]["containers"]
        }
        assert container in names
    if file := options.get("-f"):
        assert (PROJECT / file).is_file()
    if "--for" in options:
        condition = options["--for"].removeprefix("condition=").removesuffix("=False")
        assert condition in {"delete", "Ready", "UpgradeInProgress"}  # the latter KubeRay's
    there = {f"{e['kind'].lower()}/{e['metadata']['name']}" for e in everything()}
    there |= MADE | SHOPS
    # A kind alone lists; where it is created, its name is nobody's yet.
    named = [word for word in words if "/" in word]
    kinds = {
        "rayservice", "statefulset", "pods", "rayclusters", "raycluster", "secret", "generic",
        "events", "poddisruptionbudgets",
    }  # fmt: skip
    if subcommand in {"get", "describe", "patch", "delete"} and len(words) == 2:
        kind, name = words
        if name not in THEIRS:
            named = [f"{kind}/{name}"]
    for name in named:
        assert name in there, name
    assert {word for word in words if "/" not in word} <= kinds | THEIRS | {
        "mlc", "mlc-redis", "mlc-postgres", "8000", "8265", "8089", "5432",
    }  # fmt: skip


@pytest.mark.parametrize("line", [c for c in COMMANDS if c.startswith("docker build")])
def test_images_are_built_from_targets_that_there_are_under_the_manifests_names(line):
    words = shlex.split(line)
    options = dict(zip(words[2:-1:2], words[3:-1:2], strict=True))
    assert (PROJECT / options["-f"]).is_file()
    assert options["--target"] in set(TARGETS) & set(stages())
    used = {
        container["image"] for overlay in OVERLAYS
        for pod in pods(render(overlay, *COMPONENTS)).values()
        for container in pod["spec"]["containers"]
    }  # fmt: skip
    assert options["-t"] in used
    assert words[-1] == "."


def test_the_path_of_a_patch_is_the_groups_it_speaks_of():
    (command,) = [c for c in KUBECTL if " patch " in c]
    (change,) = json.loads(parsed(command)[1]["-p"])
    cluster = ray_service(render("cpu"))["spec"]["rayClusterConfig"]
    *way, last = change["path"].removeprefix("/spec/").split("/")
    assert (way, last) == (["workerGroupSpecs", "1"], "maxReplicas")
    assert cluster["workerGroupSpecs"][1]["groupName"] == "classifier"


def test_every_command_is_checked_here_or_is_no_command_of_ours():
    others = [
        c
        for c in COMMANDS
        if c.partition(" | ")[0] not in KUBECTL and not c.startswith("docker build")
    ]
    unchecked = {
        "kind create cluster", "kind load docker-image mlc:0.1.0 mlc-loadtest:0.1.0",
        "helm repo add kuberay https://ray-project.github.io/kuberay-helm/",
        "helm install kuberay-operator kuberay/kuberay-operator --version 1.7.0 "
        "--namespace kuberay-system --create-namespace",
    }  # fmt: skip
    elsewhere = {
        "curl -F image=@samples/tshirt.jpg http://127.0.0.1:8000/v1/classify",
        "make generate",
        "mlc index products.csv postgresql://mlc@127.0.0.1/mlc",
        "make test-kubernetes SHARED=/a/directory/that/all/nodes/share",
    }
    ours = {c for c in others if c.startswith("tar ")}  # its kubectl is checked
    assert set(others) - ours == unchecked | elsewhere
    assert (
        "curl -F image=@samples/tshirt.jpg http://127.0.0.1:8000/v1/classify" in README
    )  # which runs it
    assert importlib.util.find_spec("scripts.generate")


def test_overlays_and_components_that_the_page_names_are_those_that_there_are():
    tables = re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE)
    assert set(tables[: len(OVERLAYS)]) == set(OVERLAYS)
    assert set(tables[len(OVERLAYS) :]) == set(COMPONENTS)
    for path in re.findall(r"`(k8s/[\w./-]+)`", PAGE):
        assert (PROJECT / path).exists(), path


def gib(quantity):
    number, unit = quantity[:-2], quantity[-2:]
    return float(number) / {"Gi": 1, "Mi": 1024}[unit]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_costs_are_what_the_pods_request(overlay):
    (row,) = re.findall(rf"^\| {overlay} \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
    objects = render(overlay)
    options = ray_service(objects)["spec"]["rayClusterConfig"]["autoscalerOptions"]
    # What KubeRay gives the autoscaler where nobody says.
    autoscaler = options.get("resources", {"requests": {"cpu": "500m", "memory": "512Mi"}})
    for said, number in zip(row, ("least", "most"), strict=True):
        requests = [autoscaler["requests"]]
        for group in groups(objects).values():
            requests += [group.container["resources"]["requests"]] * getattr(group, number)
        cpus = sum(cores(each["cpu"]) for each in requests)
        memory = sum(gib(each["memory"]) for each in requests)
        gpus = sum(int(each.get("nvidia.com/gpu", 0)) for each in requests)
        told = f"{cpus:.3g} CPU, {memory:.3g} GiB" + (f", {gpus} GPU" if gpus else "")
        assert said == told

"""Manifests as `kubectl apply -k` sends them, and the pods that KubeRay creates from them."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import yaml

from k8s.render import rendered

PROJECT = Path(__file__).resolve().parents[2]
K8S = PROJECT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (K8S / "components").iterdir())
# No component, each component alone, all components.
CHOICES = [(), *((component,) for component in COMPONENTS), tuple(COMPONENTS)]
_OLDEST = (1, 27)


def need_kubectl() -> None:
    """Skip the test if kubectl is missing or too old; fail it if CI=true."""
    if found := _kubectl_version():
        if found >= _OLDEST:
            return
        reason = f"kubectl is {found[0]}.{found[1]}"
    else:
        reason = "kubectl is not installed"
    reason += "; 1.27 is needed, scripts/install-test-packages installs it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@cache
def _kubectl_version() -> tuple[int, int] | None:
    if shutil.which("kubectl") is None:
        return None
    said = subprocess.run(
        ["kubectl", "version", "--client", "-o", "json"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    version = json.loads(said.stdout)["clientVersion"]
    return int(version["major"]), int(version["minor"].rstrip("+"))


@contextmanager
def overlay_with(
    overlay: str, *components: str, changes: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Path]:
    """The folder of an overlay that lists these components, as its users would list them.

    Args:
        changes: {a file below k8s/: what it says instead}.
    """
    with tempfile.TemporaryDirectory() as folder:
        for part in ("k8s", "monitoring"):
            shutil.copytree(PROJECT / part, Path(folder, part))
        file = Path(folder, "k8s/overlays", overlay, "kustomization.yaml")
        named = ", ".join(f"../../components/{component}" for component in components)
        text, lines = re.subn(r"components: \[.*\]", f"components: [{named}]", file.read_text())
        assert lines == 1
        file.write_text(text, encoding="utf-8")
        for made, contents in rendered(Path(folder, "k8s")).items():
            made.write_text(contents, encoding="utf-8")
        for name, text in changes.items():
            Path(folder, "k8s", name).write_text(text, encoding="utf-8")
        yield file.parent


@cache
def render(overlay: str, *components: str) -> list[dict[str, Any]]:
    """The objects of an overlay that lists these components."""
    need_kubectl()
    with overlay_with(overlay, *components) as folder:
        done = subprocess.run(
            ["kubectl", "kustomize", folder], capture_output=True, text=True, check=False,
            timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # kustomize warns on stderr of features it will drop
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] in kinds]


def ray_service(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (service,) = of_kind(objects, "RayService")
    return service


def serve_config(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return yaml.safe_load(ray_service(objects)["spec"]["serveConfigV2"])


def application(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (application,) = serve_config(objects)["applications"]
    return application


def deployments(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in application(objects)["deployments"]}


class Group(NamedTuple):
    """A group of Ray's pods: the head, or workers.

    Attributes:
        pod: the template, with the labels that KubeRay adds from the group's own.
        cpus, gpus: the numbers that KubeRay tells Ray for a pod.
    """

    name: str
    pod: dict[str, Any]
    labels: dict[str, str]
    least: int
    most: int
    cpus: int
    gpus: int

    @property
    def container(self) -> dict[str, Any]:
        return self.pod["spec"]["containers"][0]


def groups(objects: list[dict[str, Any]]) -> dict[str, Group]:
    cluster = ray_service(objects)["spec"]["rayClusterConfig"]
    head = {"groupName": "head", "minReplicas": 1, "maxReplicas": 1} | cluster["headGroupSpec"]
    return {each["groupName"]: _group(each) for each in (head, *cluster["workerGroupSpecs"])}


def _group(spec: dict[str, Any]) -> Group:
    labels = spec.get("labels", {})
    metadata = {"labels": spec["template"]["metadata"]["labels"] | labels}
    resources = spec["template"]["spec"]["containers"][0]["resources"]
    cpu = resources["limits"].get("cpu") or resources["requests"]["cpu"]
    return Group(
        spec["groupName"], {"metadata": metadata, "spec": spec["template"]["spec"]}, labels,
        spec["minReplicas"], spec["maxReplicas"],
        int(spec["rayStartParams"].get("num-cpus") or math.ceil(cores(cpu))),
        int(resources["limits"].get("nvidia.com/gpu", 0)),
    )  # fmt: skip


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every kind of pod: {name of its group or owner: template}."""
    return {name: group.pod for name, group in groups(objects).items()} | {
        each["metadata"]["name"]: each["spec"]["template"]
        for each in of_kind(objects, "Deployment", "StatefulSet")
    }


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Match labels as Kubernetes does, for the operators that the manifests use."""
    for needed in selector.get("matchExpressions", []):
        assert needed["operator"] == "In"
        if labels.get(needed["key"]) not in needed["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def cores(quantity: str | float) -> float:
    text = str(quantity)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)

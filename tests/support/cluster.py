"""A Kubernetes cluster with the service on it, as tests/kubernetes sees it."""

from __future__ import annotations

import collections
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes
import yaml
from kubernetes.stream import stream
from manifests import K8S, overlay_with

from deployments.serve_config import merge

NAMESPACE, CLIENTS = "mlc", "ingress-nginx"
SERVICE = ("ray.io", "v1", NAMESPACE)
GROUPS = {"front": ("Ingress", "Preprocessor"), "classifier": ("Classifier",)}
IMAGE = "mlc:0.1.0"
COMPONENTS = ("redis", "models", "loadtest", "similar")
TOKENS_SINCE = (1, 6)  # of KubeRay, which makes the token and asks with it
RENDERED = "components/similar/serve_config.rendered.yaml"
_SENDER = Path(__file__).with_name("sender.py")


def kubectl(*words: str, text: str | None = None, within_s: float = 120) -> str:
    """Run kubectl; return what it prints.

    Raises:
        AssertionError: it failed.
    """
    done = subprocess.run(
        ["kubectl", *words], input=text, capture_output=True, text=True, check=False,
        timeout=within_s,
    )  # fmt: skip
    assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
    return done.stdout


def until(holds: Callable[[], Any], what: str, within_s: float) -> float:
    """Wait until something holds; return the seconds that it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + within_s, f"not within {within_s} s: {what}"
        time.sleep(1)
    return time.monotonic() - began


class Sent(dict[str, Any]):
    """What the sender found; filled when its `with` block ends."""


class Cluster:
    """The cluster of KUBECONFIG."""

    def __init__(self) -> None:
        kubernetes.config.load_kube_config()
        self.core = kubernetes.client.CoreV1Api()
        self.policy = kubernetes.client.PolicyV1Api()
        self.custom = kubernetes.client.CustomObjectsApi()
        self.version = kubernetes.client.VersionApi().get_code()
        self._env = ""

    # What is there

    @property
    def operator_version(self) -> tuple[int, ...]:
        """Of KubeRay's operator that runs; empty if none does."""
        pods = self.core.list_pod_for_all_namespaces(
            label_selector="app.kubernetes.io/component=kuberay-operator"
        ).items
        images = [pod.spec.containers[0].image for pod in pods if ready(pod)]
        (version,) = re.findall(r":v?(\d+)\.(\d+)", images[0]) if images else ((),)
        return tuple(map(int, version))

    def nodes(self) -> list[str]:
        """The nodes that take pods."""
        return [
            node.metadata.name for node in self.core.list_node().items
            if not node.spec.unschedulable
            and not any(taint.effect == "NoSchedule" for taint in node.spec.taints or ())
        ]  # fmt: skip

    def namespaces(self) -> set[str]:
        return {each.metadata.name for each in self.core.list_namespace().items}

    def active(self) -> str:
        """The RayCluster that serves; empty before there is one."""
        service = self.custom.get_namespaced_custom_object(*SERVICE, "rayservices", "mlc")
        status = service.get("status", {}).get("activeServiceStatus", {})
        return status.get("rayClusterName", "")

    def conditions(self) -> dict[str, str]:
        service = self.custom.get_namespaced_custom_object(*SERVICE, "rayservices", "mlc")
        found = service.get("status", {}).get("conditions", [])
        return {each["type"]: each["status"] for each in found}

    def pods(self, group: str = "", *, everywhere: bool = False) -> list[Any]:
        """The pods of the cluster that serves; of all clusters if `everywhere`."""
        label = "app.kubernetes.io/instance=mlc"
        label += f",mlc/group={group}" if group else ""
        label += "" if everywhere else f",ray.io/cluster={self.active()}"
        return self.core.list_namespaced_pod(NAMESPACE, label_selector=label).items

    def head(self) -> Any:
        (pod,) = [pod for pod in self.pods("head") if not pod.metadata.deletion_timestamp]
        return pod

    def execute(self, pod: str, *command: str, namespace: str = NAMESPACE) -> str:
        """What a command in a pod prints; nothing if the pod has ended meanwhile."""
        try:
            process = stream(
                self.core.connect_get_namespaced_pod_exec, pod, namespace, command=list(command),
                stderr=True, stdin=False, stdout=True, tty=False, _preload_content=False,
            )  # fmt: skip
            try:
                process.run_forever(timeout=60)
                return "".join(process.read_all())
            finally:
                process.sock.shutdown()  # `close` leaves it open once the other side has closed
        except kubernetes.client.ApiException:
            names = [each.metadata.name for each in self.core.list_namespaced_pod(namespace).items]
            if pod in names:
                raise
            return ""

    def placed(self) -> dict[str, list[str]]:
        """{deployment: the node of each of its replicas}, from the processes of the pods."""
        found = collections.defaultdict(list)
        for group in GROUPS:
            for pod in self.pods(group):
                if pod.metadata.deletion_timestamp or not ready(pod):
                    continue
                look = "grep -a -o -h -E 'ServeReplica:mlc:[A-Z][a-z]+' /proc/[0-9]*/cmdline"
                said = self.execute(pod.metadata.name, "sh", "-c", f"{look}; true")
                for deployment in re.findall(r"ServeReplica:mlc:([A-Z][a-z]+)", said):
                    found[deployment].append(pod.spec.node_name)
        return found

    def leaving(self) -> list[str]:
        """Pods that end, and pods in which an HAProxy that was replaced still has clients."""
        pods = self.pods(everywhere=True)
        found = [pod.metadata.name for pod in pods if pod.metadata.deletion_timestamp]
        if found:
            return found
        look = "grep -l -x haproxy /proc/[0-9]*/comm 2>/dev/null | wc -l"
        return [
            pod.metadata.name for pod in pods
            if pod.metadata.labels["mlc/group"] in GROUPS
            and ready(pod)
            and int(self.execute(pod.metadata.name, "sh", "-c", look) or 0) > 1
        ]  # fmt: skip

    def budgets(self) -> dict[str, int]:
        """{budget: how many pods it lets go now}."""
        budgets = self.policy.list_namespaced_pod_disruption_budget(NAMESPACE).items
        return {each.metadata.name: each.status.disruptions_allowed for each in budgets}

    def faults(self) -> list[str]:
        """What is not as it has to be when nothing happens; empty if all is well."""
        found = [
            f"{pod.metadata.name} is not ready"
            for pod in self.pods(everywhere=True) if not ready(pod)
        ]  # fmt: skip
        if found:
            return found
        placed = self.placed()
        found += [
            f"{name} is on {placed[name]}"
            for group in GROUPS.values() for name in group if len(set(placed[name])) < 2
        ]  # fmt: skip
        allowed = self.budgets()
        found += [f"{name} lets none go" for name, number in allowed.items() if number < 1]
        return found

    def settle(self, within_s: float = 240) -> float:
        """Wait until nothing is wrong; return the seconds that it took."""
        last: list[str] = []

        def holds() -> bool:
            last[:] = self.faults()
            return not last

        try:
            return until(holds, "settled", within_s)
        except AssertionError:
            raise AssertionError(f"not within {within_s} s: {last}") from None

    # What is done to it

    def apply(self, *, env: str = "", **deployments: dict[str, Any]) -> None:
        """Apply the overlay for CPUs with COMPONENTS.

        Args:
            env: another line of cluster.env, which stays; it makes another Ray cluster.
            deployments: {name: keys of the Serve config that it gets, merged}.
        """
        config = yaml.safe_load((K8S / RENDERED).read_text(encoding="utf-8"))
        serve = yaml.safe_load(config["spec"]["serveConfigV2"])
        named = [{"name": name} | keys for name, keys in deployments.items()]
        serve = merge(serve, {"applications": [{"name": "mlc", "deployments": named}]})
        config["spec"]["serveConfigV2"] = yaml.safe_dump(serve)
        self._env += env
        flags = (K8S / "base/cluster.env").read_text(encoding="utf-8") + self._env
        if self.operator_version < TOKENS_SINCE:  # it could not talk to its own cluster
            flags = flags.replace("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled")
        changes = {RENDERED: yaml.safe_dump(config), "base/cluster.env": flags}
        with overlay_with("cpu", *COMPONENTS, changes=changes) as folder:
            kubectl("apply", "-k", str(folder))

    def remove(self) -> float:
        """Delete all that `apply` made, as docs/kubernetes.md says; return the seconds it took."""
        began = time.monotonic()
        if NAMESPACE in self.namespaces():
            kubectl("-n", NAMESPACE, "delete", "rayservice", "mlc", "--ignore-not-found")
            gone = ("wait", "rayclusters", "--all", "--for=delete", "--timeout=300s")
            kubectl("-n", NAMESPACE, *gone, within_s=320)
            with overlay_with("cpu", *COMPONENTS) as folder:
                kubectl("delete", "-k", str(folder), "--ignore-not-found", within_s=200)
            kubectl("delete", "-f", str(K8S / "namespace.yaml"), within_s=200)
        return time.monotonic() - began

    @contextmanager
    def load(self, rate: float = 30, *, fresh: bool = False) -> Iterator[Sent]:
        """Photos to mlc-serve-svc from a pod where an ingress controller would be."""
        found = Sent()
        kubectl(
            "-n", CLIENTS, "exec", "-i", "sender", "--", "sh", "-c", "cat >/tmp/sender.py",
            text=_SENDER.read_text(encoding="utf-8"),
        )  # fmt: skip
        command = f"python /tmp/sender.py mlc-serve-svc.{NAMESPACE} 8000 {rate}"
        process = subprocess.Popen(
            ["kubectl", "-n", CLIENTS, "exec", "-i", "sender", "--", *command.split()]
            + ["fresh"] * fresh,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield found
        finally:
            output, errors = process.communicate("", timeout=90)
        assert process.returncode == 0, errors
        found.update(json.loads(output))

    def drain(self, node: str) -> None:
        """`kubectl drain`, of our pods alone: the sender stays where it is."""
        kubectl(
            "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
            "--pod-selector", "app.kubernetes.io/instance in (mlc, mlc-redis)", "--timeout", "280s",
            within_s=300,
        )  # fmt: skip

    def opens(self, pod: str, namespace: str, host: str, port: int) -> bool:
        """Whether a connection opens from a pod."""
        code = f"import socket; socket.create_connection(({host!r}, {port}), 3); print('open')"
        return "open" in self.execute(pod, "python", "-c", code, namespace=namespace)


def ready(pod: Any) -> bool:
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ())

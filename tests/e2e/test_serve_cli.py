"""Plain Ray, as its users know it: `ray start`, `serve deploy`, `serve run`, and a model swap."""

import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import httpx
import pytest
from photos import jpeg
from readme import BLOCKS, printed
from sandbox import run_in_namespace
from services import (
    PROJECT,
    START_WITHIN_S,
    Running,
    answers,
    environment,
    free_port,
    tool,
    wait_until,
)

from bench.prometheus import Prometheus
from deployments.app import FAST_FLAGS
from launcher.processes import RUN, kill, processes, run_directory
from mlc_core.spec import HEADS

_NETWORK = """
import sys
from mlc_core.training.export import save_artifact
from mlc_core.training.network import MultiHeadNetwork
from mlc_core.spec import ImageSize, Spec

heads = {"color": ("Red", "Blue"), "master_category": ("Apparel", "Footwear"),
         "sub_category": ("Topwear", "Shoes"), "category": ("Tshirts", "Heels")}
spec = Spec("fashion", "3", ImageSize(height_px=40, width_px=30), heads)
metrics = {"heads": {head: {} for head in heads}}
save_artifact(MultiHeadNetwork(spec).build_model(), spec, metrics, sys.argv[1])
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory, shipped_model, one_head_models):
    """The shipped model, the same called version 1, one of another image size, a broken one.

    And one with the head color alone.
    """
    path = tmp_path_factory.mktemp("models")
    shutil.copytree(one_head_models["color"], path / "color")
    for version in ("1", "2", "broken"):
        shutil.copytree(shipped_model, path / version)
    rename(path / "1", "1")
    rename(path / "broken", "broken")
    (path / "broken" / "model.onnx").write_bytes(b"cut off while it was copied")
    subprocess.run([sys.executable, "-c", _NETWORK, path / "3"], check=True, timeout=240)
    return path


def rename(artifact, version):
    spec = artifact / "spec.json"
    spec.write_text(spec.read_text().replace('"version": "2"', f'"version": "{version}"', 1))
    with (artifact / "SHA256SUMS").open("w") as sums:
        names = sorted(file.name for file in artifact.iterdir() if file.name != "SHA256SUMS")
        subprocess.run(["sha256sum", *names], cwd=artifact, stdout=sums, check=True)


class Cluster:
    """`ray start --head --block` on ports of its own, and the `serve` command against it."""

    def __init__(self, path, env):
        self._temp = path
        self._env = env
        self._dashboard = f"http://127.0.0.1:{free_port()}"
        ports = {
            "port": free_port(),
            "dashboard-port": self._dashboard.rpartition(":")[2],
            "ray-client-server-port": free_port(),
            "metrics-export-port": free_port(),
            "dashboard-agent-listen-port": free_port(),
        }
        command = [tool("ray"), "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={path}"]
        options = [f"--{name}={port}" for name, port in ports.items()]
        self._ray = Running([*command, *options], path / "output", env)

    def wait_until_up(self):
        self._ray.wait_for("Ray runtime started")
        wait_until(lambda: answers(f"{self._dashboard}/api/version"), "the dashboard answers", 60)

    def deploy(self, config):
        subprocess.run(
            [tool("serve"), "deploy", "--address", self._dashboard, str(config)],
            env=self._env, cwd=PROJECT, check=True, timeout=120,
        )  # fmt: skip

    def replicas(self):
        """{deployment: the processes of its replicas}."""
        url = f"{self._dashboard}/api/serve/applications/"
        applications = httpx.get(url, timeout=30, trust_env=False).json()["applications"]
        deployments = applications["mlc"]["deployments"]
        return {name: [r["pid"] for r in d["replicas"]] for name, d in deployments.items()}

    def log_says(self, text):
        files = (self._temp / "session_latest" / "logs").rglob("*")
        return any(text in file.read_text(errors="replace") for file in files if file.is_file())

    def stop(self):
        self._ray.press_ctrl_c()
        self._ray.wait()


@pytest.fixture
def short_path():
    """Ray's sockets need a short one."""
    with tempfile.TemporaryDirectory(prefix="mlc-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@pytest.fixture
def port():
    """The service's; what a failed test left of it ends here."""
    port = free_port()
    yield port
    kill(list(processes(port)))


@pytest.fixture
def ray_env(short_path, port):
    return environment(
        RAY_TMPDIR=str(short_path), RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0",
        PYTHONPATH=str(PROJECT), **{RUN: run_directory(port)},
    )  # fmt: skip


@pytest.fixture
def cluster(short_path, ray_env):
    cluster = Cluster(short_path, ray_env)
    cluster.wait_until_up()
    yield cluster
    cluster.stop()


class Shopper:
    """Asks one thing after the other while something else happens, and remembers the answers."""

    def __init__(self, url):
        self.versions = []
        self.failures = []
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self):
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as client:
            while not self._over.is_set():
                try:
                    response = client.post("/v1/classify", content=jpeg())
                    response.raise_for_status()
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                else:
                    self.versions.append(response.json()["model"]["version"])

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


@pytest.mark.slow
def test_models_are_swapped_by_serve_deploy_without_a_lost_request(
    cluster, shipped_config, models, port, tmp_path
):
    """On a cluster without the flags, which is told in the log."""
    url = f"http://127.0.0.1:{port}"

    def deploy(version):
        precision = "float32" if version == "3" else "int8"  # it has no int8 network
        model = str(models / version)
        deploy_config(shipped_config.with_user_config(model=model, precision=precision))

    def deploy_config(config):
        cluster.deploy(config.listening("127.0.0.1", port).write(tmp_path / "config.yaml"))

    deploy("1")
    wait_until(lambda: answers(f"{url}/readyz"), "the service is ready", START_WITHIN_S)
    assert cluster.log_says(f"{' and '.join(FAST_FLAGS)} not set to 1")
    replicas = cluster.replicas()
    assert set(replicas) == {"Ingress", "Preprocessor", "Classifier"}

    for version in ("2", "3"):  # 3 takes images of another size
        with Shopper(url) as shopper:
            wait_until(lambda: shopper.versions, "an answer", 30)
            deploy(version)
            wait_until(lambda: shopper.versions[-1] == version, "the new model", 60)  # noqa: B023
        assert shopper.failures == []
        assert shopper.versions == sorted(shopper.versions)  # once new, never old again
        assert cluster.replicas() == replicas

    def refusal():
        return httpx.get(f"{url}/v1/model", trust_env=False).json()["refused_update"] or ""

    with Shopper(url) as shopper:
        deploy("broken")
        wait_until(refusal, "the broken model is refused", 60)
        answered = len(shopper.versions)
        wait_until(lambda: len(shopper.versions) > answered + 10, "answers after that", 30)
    assert shopper.failures == []
    assert set(shopper.versions) == {"3"}
    assert "model.onnx is not what SHA256SUMS says" in refusal()
    assert cluster.log_says("model update refused, fashion/3 stays in service: ")
    assert cluster.replicas() == replicas
    if shutil.which("prometheus"):  # an SRE is told
        with Prometheus(tmp_path, url) as prometheus:
            stuck = "MlcModelUpdateStuck"  # it fires after a minute
            wait_until(lambda: stuck in prometheus.raised(), stuck, 60)

            def in_service():
                series = prometheus.query("ray_mlc_model_info")
                return [each["metric"]["version"] for each in series]

            wait_until(lambda: in_service() == ["3"], "version 3 alone is in service", 60)

    # The runbook's remedies for it: repair the artifact in place, or name what may go.
    shutil.copy(models / "2" / "model.onnx", models / "broken" / "model.onnx")
    wait_until(lambda: served_version(url) == "broken", "the repaired model is in service", 60)
    assert refusal() == ""
    chosen = {"model": str(models / "color"), "precision": "int8"}
    deploy_config(shipped_config.with_user_config(**chosen, heads=None))
    wait_until(lambda: "lacks master_category" in refusal(), "a model of one head is refused", 60)
    assert list(labels(url)) == list(HEADS)
    # And for saturation: more replicas.
    deploy_config(two_classifiers(shipped_config.with_user_config(**chosen, heads=["color"])))
    wait_until(lambda: list(labels(url)) == ["color"], "the head that is named is left", 60)
    contract = httpx.get(f"{url}/openapi.json", trust_env=False).json()
    result = contract["components"]["schemas"]["Result"]["properties"]["labels"]
    assert list(result["properties"]) == ["color"]
    wait_until(lambda: len(cluster.replicas()["Classifier"]) == 2, "two classifiers", 60)


def served_version(url):
    return httpx.get(f"{url}/v1/model", trust_env=False).json()["version"]


def labels(url):
    return httpx.post(f"{url}/v1/classify", content=jpeg(), trust_env=False).json()["labels"]


def two_classifiers(config):
    return config.merge(
        {"applications": [{"name": "mlc", "deployments": [
            {"name": "Classifier", "num_replicas": 2}]}]}
    )  # fmt: skip


@pytest.mark.timeout(400)
def test_the_readme_s_cluster_serves_and_stops_as_printed(tmp_path):
    """On default ports, with Ray's authentication on, in a network of its own."""
    blocks = {block.splitlines()[0]: block for block in BLOCKS}
    start, stop = blocks[printed('export PATH="$PWD')], blocks[printed("serve status")]
    assert printed("set -a") in start
    assert printed("export RAY_SERVE_HAPROXY_BINARY_PATH") in start
    assert printed("ray get-auth-token") in start
    assert printed("ray start") in start
    assert printed("serve deploy") in start
    assert printed("ray stop") in stop
    out = run_in_namespace(
        f"""{start}
        ready=http://127.0.0.1:8000/readyz
        for _ in $(seq 600); do curl -sf $ready > /dev/null && break; sleep 0.2; done
        curl -sf -F image=@samples/tshirt.jpg http://127.0.0.1:8000/v1/classify
        echo
        RAY_AUTH_MODE=disabled serve status > /dev/null 2>&1 && echo "no token needed"
        {stop}
        """,
        tmp_path, within_s=300,
    )  # fmt: skip
    assert '"label":"Tshirts"' in out
    assert "status: RUNNING" in out
    assert "no token needed" not in out
    assert (tmp_path / ".ray/auth_token").exists()


@pytest.mark.slow
def test_serve_run_serves(shipped_config, ray_env, port, tmp_path):
    """With the environment that cluster.env sets, and nothing of ours around it."""
    first = free_port()
    env = ray_env | {  # what another service on this machine would share with this one
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # not 30: nobody is in front of it
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 9),
    }
    command = '. ./cluster.env; exec "$0" run "$1"'
    config = shipped_config.listening("127.0.0.1", port).write(tmp_path / "config.yaml")
    run = Running(["bash", "-ac", command, tool("serve"), str(config)], tmp_path / "output", env)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/readyz"), "the service is ready", START_WITHIN_S)
        response = httpx.post(f"{url}/v1/classify", content=jpeg(), trust_env=False)
        assert set(response.json()["labels"]) == set(HEADS)
        assert "not set to 1" not in run.output
    finally:
        run.press_ctrl_c()
        run.wait()

"""Nodes that are lost under load: one by its link, one with all of its processes."""

import json
import shutil
import subprocess
import sys
import tempfile

import pytest
from services import PROJECT, environment

from deployments.serve_config import ServeConfig
from launcher.environment import cluster_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
_NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
_DEPLOYMENTS = ("Ingress", "Preprocessor", "Classifier")


@pytest.fixture(scope="module")
def found():
    """What two replicas of each, on three nodes, went through."""
    if shutil.which("ip") is None or subprocess.run([*_NAMESPACES, "true"], check=False).returncode:
        pytest.skip("needs ip and the right to make namespaces")
    config = ServeConfig.read(PROJECT / "serve_config.yaml").merge(
        {"applications": [{"name": "mlc", "deployments": [
            {"name": name, "num_replicas": 2, "max_replicas_per_node": 1} for name in _DEPLOYMENTS
        ]}]}
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="mlc-", ignore_cleanup_errors=True) as folder:
        asked = {
            "folder": folder,  # short: Ray's sockets are in it
            "env": cluster_env(),
            "config": config.listening("0.0.0.0", 8000).to_yaml(),
        }
        path = f"{PROJECT}:{PROJECT / 'tests/support'}"
        done = subprocess.run(
            [*_NAMESPACES, sys.executable, PROJECT / "tests/support/node_loss.py"],
            check=False, timeout=840,
            input=json.dumps(asked), capture_output=True, text=True,
            env=environment(PYTHONPATH=path), cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, loss in found.items():
        sys.stdout.write(f"{name}: {loss}\n")  # `make node-loss` shows it
    return found


@pytest.mark.parametrize("loss", ["link", "processes"])
def test_a_lost_node_costs_at_most_the_requests_that_it_held(found, loss):
    assert found[loss]["requests"] > 100
    assert found[loss]["failed_later"] == 0, found[loss]
    assert sum(found[loss]["failed"].values()) <= found[loss]["held"]


@pytest.mark.parametrize("loss", ["link", "processes"])
def test_it_is_back_to_full_strength_by_itself(found, loss):
    assert found[loss]["full_s"] < 120

"""Nodes that are lost under load: one by its link, one with all of its processes."""

import sys

import pytest
from sandbox import run_nodes
from services import PROJECT

from deployments.serve_config import ServeConfig
from launcher.environment import cluster_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
_DEPLOYMENTS = ("Ingress", "Preprocessor", "Classifier")


@pytest.fixture(scope="module")
def found():
    """What two replicas of each, on three nodes, went through."""
    config = ServeConfig.read(PROJECT / "serve_config.yaml").merge(
        {"applications": [{"name": "mlc", "deployments": [
            {"name": name, "num_replicas": 2, "max_replicas_per_node": 1} for name in _DEPLOYMENTS
        ]}]}
    )  # fmt: skip
    asked = {"env": cluster_env(), "config": config.listening("0.0.0.0", 8000).to_yaml()}
    found = run_nodes("node_loss.py", asked, 840)
    for name, loss in found.items():
        sys.stdout.write(f"{name}: {loss}\n")  # `make node-loss` shows it
    return found


@pytest.mark.parametrize("loss", ["link", "processes"])
def test_a_lost_node_costs_at_most_the_requests_that_it_held(found, loss):
    assert found[loss]["requests"] > 100
    assert sum(found[loss]["failed"].values()) <= found[loss]["held"], found[loss]


@pytest.mark.parametrize("loss", ["link", "processes"])
def test_it_is_back_to_full_strength_by_itself(found, loss):
    for replicas in found[loss]["placed_then"].values():
        running = [address for state, address in replicas if state == "RUNNING"]
        assert len(set(running) - {found[loss]["lost"]}) == 2

"""One running service, started as a user starts it, for all tests that only ask it things."""

import os
import re
import shutil
import subprocess

import httpx
import pytest
import yaml
from contract import LATER, ORIGIN
from playwright.sync_api import sync_playwright
from services import PROJECT, Service, environment, free_port, tool

from deployments.serve_config import ServeConfig
from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from mlc_core.keys import add_key
from mlc_core.labels import Choice, Labeller, parse_answer
from mlc_core.photo import decode
from samples.shop import write_shop

CHROMIUM, PHP = shutil.which("chromium"), shutil.which("php")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is missing; scripts/install-test-packages brings it")
        pytest.skip("needs chromium; scripts/install-test-packages brings it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def php() -> str:
    if PHP is None:
        if os.environ.get("CI") == "true":
            pytest.fail("php is missing; scripts/install-test-packages brings it")
        pytest.skip("needs php with curl; scripts/install-test-packages brings it")
    return PHP


@pytest.fixture(scope="session")
def service():
    with Service() as service:
        yield service


@pytest.fixture(scope="session")
def url(service) -> str:
    return service.url


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def answer_here(shipped_model):
    """Classifies a photo in this process, past the service."""
    artifact = load_artifact(shipped_model)
    engine, labeller = (
        load_engine("onnxruntime", artifact, precision="int8"),
        Labeller(artifact.spec),
    )

    def answer(photo: bytes, choice: Choice | None = None) -> dict:
        image = decode(photo, artifact.spec.image)
        (body,) = labeller.answers(engine.infer(image[None]), [choice or Choice()])
        return parse_answer(body)

    return answer


@pytest.fixture(scope="session")
def keys_file(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="session")
def key(keys_file):
    return add_key(keys_file, "shop", 10_000, LATER, writes=True)


@pytest.fixture(scope="session")
def form_key(keys_file):
    """A key that may not write."""
    return add_key(keys_file, "form", 10_000, LATER)


@pytest.fixture(scope="session")
def pages_url():
    """Where a test may serve pages that call the service."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A drawn shop: products.csv, and the photos that it names."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder, 150)
    return folder


@pytest.fixture(scope="session")
def feedback(tmp_path_factory):
    return tmp_path_factory.mktemp("feedback")


@pytest.fixture(scope="session")
def grpc_port():
    return free_port()


@pytest.fixture(scope="session")
def keyed(keys_file, key, form_key, pages_url, shop, feedback, grpc_port, tmp_path_factory):
    """A service with two ingresses, keys, a profile, feedback, gRPC, and the drawn shop."""
    place = tmp_path_factory.mktemp("catalogue")
    command = [tool("mlc"), "index", str(shop), str(place)]
    subprocess.run(command, check=True, cwd=PROJECT, env=environment())
    args = {
        "keys_file": str(keys_file), "cors_origins": [ORIGIN, pages_url],
        "endpoints": {"health": "key"}, "catalog": str(place),
        "feedback": {"directory": str(feedback)},
    }  # fmt: skip
    deployments = [{"name": "Ingress", "num_replicas": 2}]
    config = ServeConfig.read(PROJECT / "configs/similar.yaml").merge(
        {"applications": [{"name": "mlc", "args": args, "deployments": deployments}]}
    )
    config = config.with_user_config(profiles=["configs/profiles/google.yaml"])
    page = (PROJECT / "docs/open-inference.md").read_text(encoding="utf-8")
    (grpc,) = re.findall(r"```yaml\n(grpc_options:.*?)```", page, re.DOTALL)
    config = config.merge(yaml.safe_load(grpc)).merge({"grpc_options": {"port": grpc_port}})
    with Service(config.write(tmp_path_factory.mktemp("keyed") / "config.yaml")) as service:
        yield service


@pytest.fixture
def shipped_config():
    return ServeConfig.read(PROJECT / "serve_config.yaml")

"""One running service, started as a user starts it, for all tests that only ask it things."""

import os
import shutil

import httpx
import pytest
from playwright.sync_api import sync_playwright
from services import PROJECT, Service

from deployments.serve_config import ServeConfig
from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from mlc_core.labels import Choice, Labeller, parse_answer
from mlc_core.photo import decode

CHROMIUM = shutil.which("chromium")
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


@pytest.fixture
def shipped_config():
    return ServeConfig.read(PROJECT / "serve_config.yaml")

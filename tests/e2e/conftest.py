"""One running service, started as a user starts it, for all tests that only ask it things."""

import json
from functools import partial

import httpx
import pytest
import yaml
from services import PROJECT, Service

from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from mlc_core.labels import Choice, Labeller
from mlc_core.photo import decode


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    output = tmp_path_factory.mktemp("service") / "output"
    with Service(output) as service:
        yield service.wait_until_ready()
        service.stop()


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
        return json.loads(body)

    return answer


@pytest.fixture(scope="session")
def write_config_to():
    """Writes a copy of serve_config.yaml with other args, user_config and http_options."""

    def write(folder, args=None, user_config=None, **http_options):
        config = yaml.safe_load((PROJECT / "serve_config.yaml").read_text(encoding="utf-8"))
        config["http_options"] |= http_options
        (application,) = config["applications"]
        application["args"] |= args or {}
        classifier = next(d for d in application["deployments"] if d["name"] == "Classifier")
        classifier["user_config"] |= user_config or {}
        path = folder / "serve_config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_config(write_config_to, tmp_path):
    return partial(write_config_to, tmp_path)

"""What tests of every part share."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx.utils
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from mlc_core.spec import Spec

_LONG_FIXTURES = {"saved", "trained", "tensorflow"}  # they train, or load TensorFlow


class _ServicesTogether(LoadScopeScheduling):
    """The tests of services run on one worker, one after the other: they take both cores.

    xdist 3.8 has groups for that, which pytest 9.2 does not see.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "services" if nodeid.startswith("tests/e2e/") else nodeid


@pytest.hookimpl(optionalhook=True)  # of xdist, which a run without workers lacks
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _ServicesTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _LONG_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def shipped_model() -> Path:
    return Path(__file__).parents[1] / "models" / "fashion" / "2"


@pytest.fixture(scope="session")
def one_head_models(shipped_model, tmp_path_factory) -> dict[str, Path]:
    """The shipped model cut into one of a head each, which answer just what the whole answers.

    Their model.keras is the whole one: what runs here is ONNX Runtime.
    """
    folder = tmp_path_factory.mktemp("one_head")
    whole = Spec.from_json((shipped_model / "spec.json").read_text())
    metrics = json.loads((shipped_model / "metrics.json").read_text())
    models = {}
    for head in whole.heads:
        model = models[head] = folder / head / "1"
        model.mkdir(parents=True)
        shutil.copy(shipped_model / "model.keras", model)
        for network in ("model.onnx", "model.int8.onnx"):
            source, part = shipped_model / network, model / network
            onnx.utils.extract_model(source, part, ["images"], [head])
        spec = replace(whole.part([head]), name=head, version="1", embedding=None)
        (model / "spec.json").write_text(spec.to_json())
        measured = metrics | {"heads": {head: metrics["heads"][head]}}
        (model / "metrics.json").write_text(json.dumps(measured))
        _sign(model)
    return models


@pytest.fixture(scope="session")
def unpromising_model(shipped_model, tmp_path_factory) -> Path:
    """The shipped model as artifacts of older versions are: its labels promise nothing."""
    model = tmp_path_factory.mktemp("unpromising") / "fashion" / "0"
    shutil.copytree(shipped_model, model)
    spec = Spec.from_json((model / "spec.json").read_text())
    plain = Spec(spec.name, "0", spec.image, spec.heads, embedding=spec.embedding)
    (model / "spec.json").write_text(plain.to_json())
    _sign(model)
    return model


def _sign(model: Path) -> None:
    files = [file for file in model.iterdir() if file.name != "SHA256SUMS"]
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in files]
    (model / "SHA256SUMS").write_text("\n".join(sums) + "\n")

"""What tests of every part share."""

import hashlib
import json
import shutil
from pathlib import Path

import onnx.utils
import pytest

_LONG_FIXTURES = {"saved", "trained", "tensorflow"}  # they train, or load TensorFlow


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.path.parts:  # one after the other: they share services and both cores
            item.add_marker(pytest.mark.xdist_group("services"))
        if _LONG_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def shipped_model() -> Path:
    return Path(__file__).parents[1] / "models" / "fashion" / "1"


@pytest.fixture(scope="session")
def one_head_models(shipped_model, tmp_path_factory) -> dict[str, Path]:
    """The shipped model cut into one of a head each, which answer just what the whole answers.

    Their model.keras is the whole one: what runs here is ONNX Runtime.
    """
    folder = tmp_path_factory.mktemp("one_head")
    whole = json.loads((shipped_model / "spec.json").read_text())
    metrics = json.loads((shipped_model / "metrics.json").read_text())
    models = {}
    for head, classes in whole["heads"].items():
        model = models[head] = folder / head / "1"
        model.mkdir(parents=True)
        shutil.copy(shipped_model / "model.keras", model)
        for network in ("model.onnx", "model.int8.onnx"):
            source, part = shipped_model / network, model / network
            onnx.utils.extract_model(source, part, ["images"], [head])
        spec = whole | {"name": head, "heads": {head: classes}}
        (model / "spec.json").write_text(json.dumps(spec))
        measured = metrics | {"heads": {head: metrics["heads"][head]}}
        (model / "metrics.json").write_text(json.dumps(measured))
        sums = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}" for f in model.iterdir()]
        (model / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    return models

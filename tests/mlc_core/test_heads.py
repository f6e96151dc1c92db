"""Adding a head takes its column and its branch; what was there before keeps working."""

import json

import pytest

from mlc_core import arguments, spec
from mlc_core.artifact import load_artifact
from mlc_core.cli import main
from mlc_core.spec import COLUMNS, DEFAULT_IMAGE_SIZE, HEADS
from mlc_core.training.dataset import read_dataset
from samples.garments import USAGES, as_file, draw_garment


@pytest.fixture
def five_heads(monkeypatch):
    """The first step of the recipe in CONTRIBUTING.md: `usage` in COLUMNS."""
    monkeypatch.setitem(COLUMNS, "usage", "usage")
    for module in (spec, arguments):
        monkeypatch.setattr(module, "HEADS", tuple(COLUMNS))
    return tuple(COLUMNS)


@pytest.mark.long
def test_a_head_is_a_column_and_a_branch(five_heads, drawn, tmp_path, monkeypatch, capsys):
    from mlc_core.training.network import (  # noqa: PLC0415  (Keras takes seconds)
        MultiHeadNetwork,
        layers,
    )

    def usage_branch(self, early, late, classes):
        pooled = layers.GlobalAveragePooling2D(name="usage_pool")(late)
        return self._classify(pooled, classes, "usage", dropout=0.3)

    monkeypatch.setattr(MultiHeadNetwork, "usage_branch", usage_branch, raising=False)
    model = tmp_path / "drawn" / "1"
    where = ["--model", str(model), "--run", str(tmp_path / "run")]
    assert main(["train", str(drawn), *where, "--heads", "color,usage", "--epochs", "1"]) == 0
    artifact = load_artifact(model)
    assert artifact.spec.heads["usage"] == tuple(sorted(set(USAGES.values())))
    assert set(artifact.metrics["heads"]) == {"color", "usage"}

    photo = tmp_path / "tie.png"
    photo.write_bytes(as_file(draw_garment("Ties", "Red"), "PNG"))
    capsys.readouterr()
    assert main(["classify", str(photo), "--model", str(model), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["labels"]) == ["color", "usage"]


def test_a_data_set_without_the_new_column_still_has_the_old_heads(five_heads, drawn, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "images").symlink_to(drawn / "images")
    table = (drawn / "styles.csv").read_text().replace("usage", "purpose", 1)
    (old / "styles.csv").write_text(table)
    assert len(read_dataset(old, DEFAULT_IMAGE_SIZE, heads=("color",))) == 240
    data = read_dataset(old, DEFAULT_IMAGE_SIZE, heads=five_heads, all_heads=False)
    assert tuple(data.labels) == HEADS


def test_an_artifact_without_the_new_head_still_loads(five_heads, shipped_model):
    assert set(load_artifact(shipped_model).spec.heads) == set(five_heads) - {"usage"}

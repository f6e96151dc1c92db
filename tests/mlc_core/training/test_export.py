"""Saving an artifact: complete or not at all, the same answers from both formats."""

import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import onnxruntime
import pytest

from mlc_core.artifact import load_artifact
from mlc_core.errors import ArtifactError
from mlc_core.spec import Spec
from mlc_core.training import export
from mlc_core.training.export import refuse_difference, save_artifact, save_int8
from mlc_core.training.network import MultiHeadNetwork

pytestmark = pytest.mark.long


def test_onnx_takes_and_answers_by_name_in_any_batch_size(saved, spec):
    session = onnxruntime.InferenceSession(saved.onnx_path, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [40, 30, 3])
    assert {output.name for output in session.get_outputs()} == set(spec.heads)
    for count in (1, 7):
        for answer in session.run(None, {"images": np.zeros((count, 40, 30, 3), np.uint8)}):
            assert len(answer) == count


def test_both_formats_answer_the_same(saved):
    images = np.random.default_rng(1).integers(0, 256, (9, 40, 30, 3), np.uint8)
    session = onnxruntime.InferenceSession(saved.onnx_path, providers=["CPUExecutionProvider"])
    heads = [output.name for output in session.get_outputs()]
    onnx_outputs = dict(zip(heads, session.run(heads, {"images": images}), strict=True))
    model = keras.saving.load_model(saved.keras_path, safe_mode=True)
    refuse_difference(model.predict_on_batch(images), onnx_outputs)


@pytest.mark.parametrize("wrong", [0.5002, np.nan])
def test_formats_that_differ_are_refused(wrong):
    one, other = np.array([[0.5, 0.5]], np.float32), np.array([[0.5, wrong]], np.float32)
    with pytest.raises(ArtifactError, match="differ by"):
        refuse_difference({"color": one}, {"color": other})


def test_plain_keras_loads_it_without_this_project(saved):
    code = f"import keras, sys; keras.saving.load_model({str(saved.keras_path)!r}); print('ok')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd="/", check=True
    )
    assert done.stdout.strip().endswith("ok")


def test_the_state_of_the_optimizer_is_not_saved(spec, tmp_path):
    model = MultiHeadNetwork(spec).build_model()
    model.compile("adam", dict.fromkeys(spec.heads, "categorical_crossentropy"))
    model.optimizer.build(model.trainable_variables)
    metrics = {"heads": {head: {} for head in spec.heads}}
    trained = save_artifact(model, spec, metrics, tmp_path / "trained" / "1")
    with zipfile.ZipFile(trained.keras_path) as archive:
        assert archive.getinfo("model.weights.h5").file_size < 5.5 * model.count_params()


def test_the_ids_of_the_training_are_saved_and_stay_when_int8_is_added(spec, tmp_path):
    model = MultiHeadNetwork(spec).build_model()
    metrics = {"heads": {head: {} for head in spec.heads}}
    saved = save_artifact(model, spec, metrics, tmp_path / "tiny" / "3", training_ids=["8", "7"])
    assert saved.training_ids() == {"7", "8"}
    assert "training_ids.txt.gz" in (saved.path / "SHA256SUMS").read_text()
    assert save_int8(saved, b"a network", metrics).training_ids() == {"7", "8"}


def test_a_network_of_other_classes_is_not_saved(spec, tmp_path):
    model = MultiHeadNetwork(spec).build_model()
    other = Spec("tiny", "4", spec.image, {**spec.heads, "color": ("Black", "Red")})
    with pytest.raises(ArtifactError, match="network has outputs"):
        save_artifact(model, other, {}, tmp_path / "4")
    assert list(tmp_path.iterdir()) == []


def test_saving_that_breaks_off_leaves_what_was_there(saved, spec, tmp_path, monkeypatch):
    copy = shutil.copytree(saved.path, tmp_path / "copy")

    def broken(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_write_sums", broken)
    before = load_artifact(copy)
    with pytest.raises(KeyboardInterrupt):
        save_artifact(MultiHeadNetwork(spec).build_model(), spec, before.metrics, copy)
    assert load_artifact(copy) == before
    assert [file.name for file in copy.parent.iterdir()] == [copy.name]

"""The artifact: complete or absent, refused when altered, the same answers from both formats."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import onnxruntime
import pytest

from mlc_core import artifact as artifact_module
from mlc_core.artifact import load_artifact, refuse_difference, save_artifact
from mlc_core.errors import ArtifactError
from mlc_core.spec import Spec
from mlc_core.training.network import MultiHeadNetwork

FILES = ("spec.json", "model.keras", "model.onnx", "metrics.json")


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved.path, tmp_path / "copy")


def write_sums(path):
    lines = [f"{hashlib.sha256((path / n).read_bytes()).hexdigest()}  {n}\n" for n in FILES]
    (path / "SHA256SUMS").write_text("".join(lines))


def test_what_was_saved_is_loaded(saved, spec):
    loaded = load_artifact(str(saved.path))
    assert loaded == saved
    assert loaded.spec == spec
    assert sorted(file.name for file in saved.path.iterdir()) == sorted([*FILES, "SHA256SUMS"])


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_refused_by_name(copy, name):
    contents = bytearray((copy / name).read_bytes())
    contents[-1] ^= 1
    (copy / name).write_bytes(contents)
    with pytest.raises(ArtifactError, match=rf"{name}.*restore"):
        load_artifact(copy)


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
def test_a_missing_file_is_refused_by_name(copy, name):
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}.*restore"):
        load_artifact(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_a_checksum_is_refused(copy, name):
    sums = (copy / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copy / "SHA256SUMS").write_text("".join(line for line in sums if name not in line))
    with pytest.raises(ArtifactError, match=f"does not cover {name}"):
        load_artifact(copy)


@pytest.mark.parametrize("line", ["gibberish\n", f"{'0' * 64}  ../../etc/passwd\n"])
def test_checksums_of_anything_else_are_refused(copy, line):
    with (copy / "SHA256SUMS").open("a") as file:
        file.write(line)
    with pytest.raises(ArtifactError, match="SHA256SUMS"):
        load_artifact(copy)


def test_a_bad_spec_is_refused_by_name(copy):
    (copy / "spec.json").write_text('{"name": "tiny"}')
    write_sums(copy)
    with pytest.raises(ArtifactError, match=r"spec\.json"):
        load_artifact(copy)


def test_metrics_of_other_heads_are_refused(copy):
    (copy / "metrics.json").write_text(json.dumps({"heads": {"color": {}}}))
    write_sums(copy)
    with pytest.raises(ArtifactError, match="different models"):
        load_artifact(copy)


@pytest.mark.parametrize("metrics", ["[]", "{", '{"heads": 1}'])
def test_metrics_of_another_form_are_refused(copy, metrics):
    (copy / "metrics.json").write_text(metrics)
    write_sums(copy)
    with pytest.raises(ArtifactError, match=r"metrics\.json"):
        load_artifact(copy)


def test_no_directory_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no model at"):
        load_artifact(tmp_path / "nothing")


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


def test_a_network_of_other_classes_is_not_saved(spec, tmp_path):
    model = MultiHeadNetwork(spec).build_model()
    other = Spec("tiny", "4", spec.image, {**spec.heads, "color": ("Black", "Red")})
    with pytest.raises(ArtifactError, match="network has heads"):
        save_artifact(model, other, {}, tmp_path / "4")
    assert list(tmp_path.iterdir()) == []


def test_saving_that_breaks_off_leaves_what_was_there(copy, spec, monkeypatch):
    def broken(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(artifact_module, "_write_sums", broken)
    before = load_artifact(copy)
    with pytest.raises(KeyboardInterrupt):
        save_artifact(MultiHeadNetwork(spec).build_model(), spec, before.metrics, copy)
    assert load_artifact(copy) == before
    assert [file.name for file in copy.parent.iterdir()] == [copy.name]

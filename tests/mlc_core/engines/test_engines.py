"""What runs a model: two engines, the same answers."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from photos import jpeg

from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from mlc_core.errors import ArtifactError
from mlc_core.photo import decode
from mlc_core.spec import EMBEDDING


@pytest.fixture(scope="module")
def artifact(shipped_model):
    return load_artifact(shipped_model)


@pytest.fixture(scope="module")
def images(artifact):
    """64 drawn garments, as the model takes them."""
    return np.stack([decode(jpeg(seed), artifact.spec.image) for seed in range(64)])


@pytest.fixture(scope="module")
def onnx(artifact):
    return load_engine("onnxruntime", artifact)


@pytest.fixture(scope="module")
def tensorflow(artifact):
    return load_engine("tensorflow", artifact)


def test_both_engines_answer_the_same(onnx, tensorflow, images, artifact):
    one, other = onnx.infer(images), tensorflow.infer(images)
    assert set(one) == set(other) == {*artifact.spec.heads, EMBEDDING}
    for head, columns in artifact.spec.outputs.items():
        assert one[head].shape == other[head].shape == (64, columns)
        assert one[head].dtype == other[head].dtype == np.float32
        np.testing.assert_allclose(one[head], other[head], atol=1e-4)


@pytest.fixture(scope="module")
def emulated(artifact):
    return load_engine("emulated", artifact)


def test_an_emulated_batch_takes_the_time_it_is_given_and_no_core(artifact, images):
    engine = load_engine("emulated", artifact, emulated_s=(0.1, 0.002))
    engine.infer(images[:1])
    began, spent = time.perf_counter(), time.process_time()
    answer = engine.infer(images[:50])
    assert 0.2 <= time.perf_counter() - began < 0.4
    assert time.process_time() - spent < 0.05
    for head, classes in artifact.spec.heads.items():
        assert answer[head].shape == (50, len(classes))
        assert answer[head].dtype == np.float32
        assert len(set(answer[head].argmax(axis=1).tolist())) > 1


@pytest.mark.parametrize(
    "engine", ["onnx", pytest.param("tensorflow", marks=pytest.mark.long), "emulated"]
)
def test_an_image_gets_the_same_answer_alone_and_in_a_batch(engine, images, request):
    engine = request.getfixturevalue(engine)
    together = engine.infer(images[:7])
    for n in range(7):
        for head, row in engine.infer(images[n : n + 1]).items():
            np.testing.assert_allclose(row[0], together[head][n], atol=1e-5)


@pytest.mark.parametrize(
    "engine", ["onnx", pytest.param("tensorflow", marks=pytest.mark.long), "emulated"]
)
def test_probabilities_sum_to_one_and_embeddings_have_length_one(engine, images, request):
    answer = request.getfixturevalue(engine).infer(images)
    np.testing.assert_allclose(np.linalg.norm(answer.pop(EMBEDDING), axis=1), 1, atol=1e-4)
    for rows in answer.values():
        np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-4)


def test_no_batch_size_causes_a_trace_after_warm_up(tensorflow, images):
    traces = tensorflow.traces
    for size in range(1, 65):
        assert all(len(rows) == size for rows in tensorflow.infer(images[:size]).values())
    assert tensorflow.traces == traces


def test_a_batch_over_the_largest_bucket_is_split(tensorflow, onnx, images):
    many = np.concatenate([images] * 5)
    traces = tensorflow.traces
    for head, rows in tensorflow.infer(many).items():
        np.testing.assert_allclose(rows, onnx.infer(many)[head], atol=1e-4)
    assert tensorflow.traces == traces


@pytest.mark.parametrize(
    "name", ["onnxruntime", pytest.param("tensorflow", marks=pytest.mark.long)]
)
def test_an_engine_refuses_a_network_that_contradicts_its_spec(name, artifact, tmp_path):
    other = type(artifact.spec).from_json(artifact.spec.to_json().replace('"Beige",', "", 1))
    with pytest.raises(ArtifactError, match="color"):
        load_engine(name, type(artifact)(artifact.path, other, artifact.metrics))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("onnxruntime", "model.onnx"),
        pytest.param("tensorflow", "model.keras", marks=pytest.mark.long),
    ],
)
def test_an_engine_names_the_file_it_cant_load(name, file, artifact, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(artifact.path, copy)
    (copy / file).write_bytes(b"no network")
    with pytest.raises(ArtifactError, match=file):
        load_engine(name, type(artifact)(copy, artifact.spec, artifact.metrics))


def test_an_unknown_engine_is_refused_naming_those_there_are(artifact):
    with pytest.raises(ValueError, match="there are onnxruntime in float32"):
        load_engine("torch", artifact)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import mlc_core.engines.engine", {"onnxruntime", "tensorflow", "keras"}),
        ("import mlc_core.photo, mlc_core.labels, mlc_core.artifact", {"onnxruntime", "keras"}),
        ("import deployments.app", {"tensorflow", "keras"}),
        (
            "from mlc_core.artifact import load_artifact\n"
            "from mlc_core.engines.loading import load_engine\n"
            "load_engine('onnxruntime', load_artifact('models/fashion/2'))",
            {"tensorflow", "keras"},
        ),
    ],
    ids=["engine", "photo", "deployments", "a loaded CPU replica"],
)
def test_importing_brings_no_framework_that_is_not_used(code, absent, shipped_model):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True, text=True, check=True, timeout=120, cwd=shipped_model.parents[2],
    )  # fmt: skip
    assert not absent & set(done.stdout.split())


def test_bfloat16_names_the_same_labels_and_answers_float32(artifact, tensorflow, images):
    exact = tensorflow.infer(images)
    mixed = load_engine("tensorflow", artifact, precision="bfloat16").infer(images)
    for head in artifact.spec.heads:
        assert mixed[head].dtype == np.float32
        assert np.abs(mixed[head] - exact[head]).max() > 0  # or it computed in float32
        assert (mixed[head].argmax(1) == exact[head].argmax(1)).mean() > 0.9

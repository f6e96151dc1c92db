"""Claims about the int8 network: nearly the same answers, or none."""

import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
from photos import jpeg

from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from mlc_core.errors import ArtifactError
from mlc_core.photo import decode
from mlc_core.training.quantization import MAX_LOSS, quantize, refuse_loss


@pytest.fixture(scope="module")
def artifact(shipped_model):
    return load_artifact(shipped_model)


@pytest.fixture(scope="module")
def images(artifact):
    return np.stack([decode(jpeg(seed), artifact.spec.image) for seed in range(96)])


def test_float32_and_int8_name_nearly_the_same_labels(artifact, images):
    exact = load_engine("onnxruntime", artifact).infer(images)
    int8 = load_engine("onnxruntime", artifact, precision="int8").infer(images)
    for head in artifact.spec.heads:
        assert np.abs(exact[head] - int8[head]).mean() < 0.01
        assert (exact[head].argmax(1) == int8[head].argmax(1)).mean() > 0.8


@pytest.mark.long
@pytest.mark.skipif(platform.machine() != "x86_64", reason="VNNI is of x86-64 processors")
@pytest.mark.skipif(
    not shutil.which("qemu-x86_64") and os.environ.get("CI") != "true",
    reason="needs qemu-x86_64; scripts/install-test-packages brings it",
)
def test_int8_is_as_right_on_a_processor_without_vnni(artifact, images, tmp_path):
    np.save(tmp_path / "images.npy", images[:32])
    # The emulator is a Haswell to programs, but shows them this machine's /proc/cpuinfo.
    program = f"""
import numpy as np
from mlc_core.engines import onnx
from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from pathlib import Path
onnx.CPU_INFO = Path("nowhere")
int8 = load_engine("onnxruntime", load_artifact(Path({str(artifact.path)!r})), precision="int8")
np.savez({str(tmp_path / "there.npz")!r}, **int8.infer(np.load({str(tmp_path / "images.npy")!r})))
"""
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", program]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    there = np.load(tmp_path / "there.npz")
    here = load_engine("onnxruntime", artifact, precision="int8").infer(images[:32])
    for head in artifact.spec.heads:
        np.testing.assert_allclose(there[head], here[head], atol=0.02)


def test_an_image_gets_the_same_answer_alone_and_in_a_batch(artifact, images):
    int8 = load_engine("onnxruntime", artifact, precision="int8")
    together = int8.infer(images[:9])
    for row in range(9):
        for head, alone in int8.infer(images[row : row + 1]).items():
            np.testing.assert_allclose(together[head][row], alone[0], atol=1e-6)


def test_confidences_are_as_fine_as_in_float32(artifact, images):
    int8 = load_engine("onnxruntime", artifact, precision="int8").infer(images[:8])
    for head, classes in artifact.spec.heads.items():
        for row in int8[head]:
            assert len(np.unique(row)) > 0.9 * len(classes)


@pytest.mark.parametrize("ranges", ["minmax", "percentile"])
@pytest.mark.parametrize("photos", [30, 96])
def test_quantizing_makes_the_network_smaller(artifact, images, ranges, photos):
    network = quantize(artifact.onnx_path, images[:photos], ranges)
    assert len(network) < artifact.onnx_path.stat().st_size * 0.7


def test_a_head_that_loses_too_much_is_refused_and_named():
    exact = {"color": 0.67, "category": 0.83}
    refuse_loss(exact, {"color": 0.67 - MAX_LOSS + 1e-9, "category": 0.84})
    with pytest.raises(ArtifactError, match="category loses") as refused:
        refuse_loss(exact, {"color": 0.67, "category": 0.82})
    assert "no int8 network was added" in str(refused.value)
    assert "The float32 model was saved" in str(refused.value)


def test_the_shipped_int8_network_was_measured_and_loses_little(artifact):
    exact, int8 = (
        {head: numbers["accuracy"]["value"] for head, numbers in measured["heads"].items()}
        for measured in (artifact.metrics, artifact.metrics["int8"])
    )
    assert exact.keys() == int8.keys()
    assert min(int8[head] - exact[head] for head in exact) > -2 * MAX_LOSS


def test_int8_is_for_onnxruntime_alone(artifact):
    with pytest.raises(ValueError, match="no engine 'tensorflow' in 'int8'"):
        load_engine("tensorflow", artifact, precision="int8")


def test_an_artifact_without_an_int8_network_says_so(artifact, tmp_path):
    missing = type(artifact)(tmp_path, artifact.spec, artifact.metrics)
    with pytest.raises(ArtifactError, match="no int8 network"):
        load_engine("onnxruntime", missing, precision="int8")

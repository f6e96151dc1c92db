"""Quantizes a network to int8: under half of the inference time, nearly the same accuracy.

ONNX Runtime quantizes the shared convolutions: weights to int8 by output channel, activations to
uint8 with the ranges seen on calibration images (Jacob et al. 2018, arXiv:1712.05877). Accuracy is
the same on a processor without VNNI (see engines/onnx.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from mlc_core.artifact import INPUT, Artifact
from mlc_core.engines.onnx import OnnxRuntime
from mlc_core.errors import ArtifactError
from mlc_core.training.dataset import DataSet
from mlc_core.training.evaluation import accuracies
from mlc_core.training.export import save_int8

MAX_LOSS = 0.003  # of accuracy, in any head, on the test split
_CALIBRATION_IMAGES = 1024
_BATCH = 64
_POOLS = ("ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten")


def add_int8_network(artifact: Artifact, train: DataSet, test: DataSet) -> Artifact:
    """Add the int8 network to an artifact, and its accuracy to the artifact's metrics.

    Args:
        train: photos to calibrate on, the first 1,024 of them.
        test: photos that had no part in training.

    Raises:
        ArtifactError: a head would lose more than MAX_LOSS; the artifact stays as it was saved.
    """
    network = quantize(artifact.onnx_path, train.images[:_CALIBRATION_IMAGES])
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(network)
        file.flush()
        measured = accuracies(OnnxRuntime(Path(file.name), threads=0).infer, test, artifact.spec)
    refuse_loss(artifact.metrics["heads"], measured)
    return save_int8(artifact, network, {**artifact.metrics, "int8_accuracy": measured})


def quantize(float32: Path, images: NDArray[np.uint8]) -> bytes:
    """Quantize a network.

    Args:
        float32: the ONNX file.
        images: uint8 (N, height_px, width_px, 3); they set the ranges of the activations.
    """
    with tempfile.TemporaryDirectory() as folder:
        folded, quantized = Path(folder) / "folded.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(float32, folded, skip_symbolic_shape=True)
        quantize_static(
            folded, quantized, _Batches(images), quant_format=QuantFormat.QDQ, per_channel=True,
            nodes_to_exclude=_branches(folded),
            activation_type=QuantType.QUInt8,  # five times faster on x86 than int8
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        return quantized.read_bytes()


def _branches(path: Path) -> list[str]:
    """The names of all nodes behind the shared convolutions.

    They stay float32, which takes a fifth more time (docs/LOG.md). In int8, confidences come in
    steps of 1/256, and most alternatives tie at 0.
    """
    names: list[str] = []
    behind: set[str] = set()
    for node in onnx.load(path).graph.node:  # in topological order
        if node.op_type in _POOLS or behind.intersection(node.input):
            names.append(node.name)
            behind.update(node.output)
    return names


def refuse_loss(float32: Mapping[str, Any], int8: Mapping[str, float]) -> None:
    """Compare the accuracies in float32 and in int8.

    Raises:
        ArtifactError: a head lost more than MAX_LOSS.
    """
    for head, accuracy in int8.items():
        loss = float32[head]["accuracy"]["value"] - accuracy
        if loss > MAX_LOSS:
            raise ArtifactError(
                f"no int8 network was added: in int8, {head} loses {loss:.2%} of accuracy, "
                f"over {MAX_LOSS:.2%}. The float32 model was saved; serve it in float32"
            )


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: NDArray[np.uint8]) -> None:
        starts = range(0, len(images), _BATCH)
        self._batches = iter([{INPUT: images[at : at + _BATCH]} for at in starts])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._batches, None)

"""Quantizes a network to int8: under half of the inference time, nearly the same accuracy.

ONNX Runtime quantizes the shared convolutions: weights to int8 by output channel, activations to
uint8 with the ranges seen on calibration images (Jacob et al. 2018, arXiv:1712.05877). Accuracy is
the same on a processor without VNNI (see engines/onnx.py).
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from mlc_core.artifact import INPUT, Artifact
from mlc_core.engines.onnx import OnnxRuntime
from mlc_core.errors import ArtifactError
from mlc_core.training.dataset import DataSet
from mlc_core.training.evaluation import LARGER_PX, accuracies, cross_entropy, measure
from mlc_core.training.export import save_int8
from mlc_core.training.similarity import measure_similarity

MAX_LOSS = 0.003  # of accuracy, in any head, on the validation split
# How the ranges of activations may be set, each with a number of calibration photos. The percentile
# cuts off rare peaks, and keeps all activations in memory until the end.
_RANGES = {
    "minmax": (CalibrationMethod.MinMax, 1024, {}),
    "percentile": (CalibrationMethod.Percentile, 256, {"CalibPercentile": 99.99}),
}
_BATCH = 64
_POOLS = ("ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool", "Reshape", "Flatten")


def add_int8_network(
    artifact: Artifact,
    train: DataSet,
    validation: DataSet,
    test: DataSet,
    larger_px: Sequence[tuple[int, int]] = LARGER_PX,
) -> Artifact:
    """Add the int8 network to an artifact, and what it measures to the artifact's metrics.

    Args:
        train: photos to calibrate on.
        validation: photos that choose how ranges are set, by the least cross-entropy.
        test: photos that had no part in training and choose nothing.
        larger_px: widths and heights of enlarged test photos; int8 is measured on the first size.

    Raises:
        ArtifactError: a head would lose more than MAX_LOSS; the artifact stays as it was saved.
    """
    spec, catalogue = artifact.spec, train.join(validation)
    networks = {ranges: quantize(artifact.onnx_path, train.images, ranges) for ranges in _RANGES}
    with tempfile.TemporaryDirectory() as folder:
        engines = {}
        for ranges, network in networks.items():
            file = Path(folder) / f"{ranges}.onnx"
            file.write_bytes(network)
            engines[ranges] = OnnxRuntime(file, threads=0)
        losses = {r: cross_entropy(each.infer, validation, spec) for r, each in engines.items()}
        ranges = min(losses, key=losses.__getitem__)
        infer = engines[ranges].infer
        exact = OnnxRuntime(artifact.onnx_path, threads=0).infer
        refuse_loss(accuracies(exact, validation, spec), accuracies(infer, validation, spec))
        measured = measure(infer, test, spec, larger_px=larger_px[:1])
        similarity = measure_similarity(infer, test, catalogue, spec) if spec.embedding else None
    for numbers in measured["heads"].values():
        for key in ("classes", "per_class", "confusions"):  # as in float32, but for a few photos
            del numbers[key]
    kept = {key: measured[key] for key in ("heads", "hierarchy", "larger_photos")}
    if similarity is not None:
        kept["similarity"] = similarity
    int8 = {"ranges": ranges, "validation_cross_entropy": losses} | kept
    return save_int8(artifact, networks[ranges], {**artifact.metrics, "int8": int8})


def quantize(float32: Path, images: NDArray[np.uint8], ranges: str = "minmax") -> bytes:
    """Quantize a network.

    Args:
        float32: the ONNX file.
        images: uint8 (N, height_px, width_px, 3); the first ones set the ranges of the activations.
        ranges: how they do: minmax or percentile.
    """
    method, photos, options = _RANGES[ranges]
    with tempfile.TemporaryDirectory() as folder:
        folded, quantized = Path(folder) / "folded.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(float32, folded, skip_symbolic_shape=True)
        with redirect_stdout(io.StringIO()):  # it prints notes
            quantize_static(
                folded, quantized, _Batches(images[:photos]), quant_format=QuantFormat.QDQ,
                per_channel=True, nodes_to_exclude=_branches(folded),
                activation_type=QuantType.QUInt8,  # five times faster on x86 than int8
                weight_type=QuantType.QInt8, calibrate_method=method, extra_options=options,
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


def refuse_loss(float32: Mapping[str, float], int8: Mapping[str, float]) -> None:
    """Compare the accuracies in float32 and in int8.

    Raises:
        ArtifactError: a head lost more than MAX_LOSS.
    """
    for head, accuracy in int8.items():
        loss = float32[head] - accuracy
        if loss > MAX_LOSS:
            raise ArtifactError(
                f"no int8 network was added: in int8, {head} loses {loss:.2%} of accuracy, "
                f"over {MAX_LOSS:.2%}. The float32 model was saved; serve it in float32"
            )


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: NDArray[np.uint8]) -> None:
        # Histograms of activations take batches of equal size only.
        equal = len(images) - len(images) % _BATCH or len(images)
        starts = range(0, equal, _BATCH)
        self._batches = iter([{INPUT: images[at : at + _BATCH]} for at in starts])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._batches, None)

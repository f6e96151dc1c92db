"""Saves a trained network as an artifact: completely or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_core.artifact import (
    INPUT,
    INT8,
    KERAS,
    METRICS,
    ONNX,
    SPEC,
    SUMS,
    TRAINING_IDS,
    Artifact,
    load_artifact,
    pack_ids,
)
from mlc_core.errors import ArtifactError
from mlc_core.spec import EMBEDDING, Embedding, Spec

MAX_DIFFERENCE = 1e-4  # between what the two formats answer, on the same images
_OPSET = 18


def save_artifact(
    model: Any,
    spec: Spec,
    metrics: Mapping[str, Any],
    path: Path | str,
    training_ids: Iterable[str] | None = None,
) -> Artifact:
    """Save a network in both formats, with its spec and metrics. Replaces a model at `path`.

    It writes to a scratch directory first, then renames that directory.

    Args:
        model: Keras network of `spec`; the state of its optimizer is not saved.
        training_ids: ids of the photos that it was trained and validated on.

    Raises:
        ArtifactError: the two formats answer differently, or the network is not one of `spec`.
    """
    if EMBEDDING in model.output:
        dimensions = model.output[EMBEDDING].shape[-1]
        spec = replace(spec, embedding=Embedding(dimensions, _digest(model)))
    with _replacing(Path(path)) as new:
        new.mkdir()
        (new / SPEC).write_text(spec.to_json(), encoding="utf-8")
        _write_network(model, spec, new)
        (new / METRICS).write_text(_to_json(metrics), encoding="utf-8")
        if training_ids is not None:
            (new / TRAINING_IDS).write_bytes(pack_ids(training_ids))
    return load_artifact(path)


def save_int8(artifact: Artifact, network: bytes, metrics: Mapping[str, Any]) -> Artifact:
    """Save the int8 network beside the float32 one, with metrics that measure both."""
    with _replacing(artifact.path) as new:
        shutil.copytree(artifact.path, new)
        (new / INT8).write_bytes(network)
        (new / METRICS).write_text(_to_json(metrics), encoding="utf-8")
    return load_artifact(artifact.path)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A directory to write to; it replaces `path` once it is complete and verified."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        new = Path(scratch) / "new"
        yield new
        _write_sums(new)
        load_artifact(new)
        if path.exists():
            path.rename(Path(scratch) / "old")
        new.rename(path)


def _write_network(model: Any, spec: Spec, path: Path) -> None:
    # Imported here, since adding an int8 network does not need them: they take seconds.
    import keras  # noqa: PLC0415
    import onnxruntime  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415
    import tf2onnx  # noqa: PLC0415

    if keras.backend.backend() != "tensorflow":
        raise ArtifactError(
            f"ONNX is exported through TensorFlow, and Keras runs on {keras.backend.backend()}; "
            "run the same command again with KERAS_BACKEND=tensorflow, it continues here"
        )
    shape = (None, spec.image.height_px, spec.image.width_px, 3)
    # A network from the configuration alone is not compiled, so it has no optimizer to save.
    bare = keras.Model.from_config(model.get_config())
    bare.set_weights(model.get_weights())
    bare.save(path / KERAS)
    _deflate(path / KERAS)
    loaded = keras.saving.load_model(path / KERAS, safe_mode=True)
    outputs = {name: output.shape[-1] for name, output in loaded.output.items()}
    if outputs != spec.outputs:
        raise ArtifactError(f"the network has outputs {outputs}, its spec says {spec.outputs}")

    signature = [tf.TensorSpec(shape, tf.uint8, name=INPUT)]
    function = tf.function(lambda images: loaded(images, training=False), signature)
    proto, _ = tf2onnx.convert.from_function(
        function, signature, opset=_OPSET, output_path=str(path / ONNX)
    )
    if {output.name for output in proto.graph.output} != set(spec.outputs):
        raise ArtifactError(f"the ONNX outputs are {[o.name for o in proto.graph.output]}")

    images = np.random.default_rng(0).integers(0, 256, (5, *shape[1:]), dtype=np.uint8)
    images[0], images[1] = 255, 0
    session = onnxruntime.InferenceSession(path / ONNX, providers=["CPUExecutionProvider"])
    names = list(spec.outputs)
    onnx_outputs = dict(zip(names, session.run(names, {INPUT: images}), strict=True))
    refuse_difference(loaded.predict_on_batch(images), onnx_outputs)


def refuse_difference(
    keras_outputs: Mapping[str, NDArray[np.float32]], onnx_outputs: Mapping[str, Any]
) -> None:
    """Compare the answers of both formats to the same images.

    Raises:
        ArtifactError: a value differs by more than MAX_DIFFERENCE.
    """
    for output, values in keras_outputs.items():
        difference = float(np.abs(values - onnx_outputs[output]).max())
        if not difference <= MAX_DIFFERENCE:
            raise ArtifactError(
                f"{ONNX} and {KERAS} differ by {difference:.2g} in {output}, over "
                f"{MAX_DIFFERENCE}; the export is wrong, nothing was saved"
            )


def _deflate(file: Path) -> None:
    """Compress the files of a zip, which Keras only stores: a tenth less."""
    with zipfile.ZipFile(file) as stored:
        files = {info: stored.read(info) for info in stored.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as deflated:
        for info, contents in files.items():
            deflated.writestr(info.filename, contents)


def _digest(model: Any) -> str:
    """SHA-256 of a network's weights."""
    return hashlib.sha256(b"".join(each.tobytes() for each in model.get_weights())).hexdigest()


def _write_sums(path: Path) -> None:
    files = sorted(file for file in path.iterdir() if file.name != SUMS)
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (path / SUMS).write_text("".join(lines), encoding="ascii")


def _to_json(metrics: Mapping[str, Any]) -> str:
    return json.dumps(metrics, indent=1) + "\n"  # ASCII, whatever the name of the data set is

"""One directory that holds a trained model: saved whole or not at all, verified when loaded.

Loading imports neither TensorFlow nor onnxruntime; what runs the files is an engine's business.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_core.errors import ArtifactError
from mlc_core.spec import Spec

SPEC, KERAS, ONNX, METRICS = "spec.json", "model.keras", "model.onnx", "metrics.json"
INT8 = "model.int8.onnx"  # may be missing; see quantization
SUMS = "SHA256SUMS"
INPUT = "images"
MAX_DIFFERENCE = 1e-4  # between the probabilities of the two formats, on the same images
_OPSET = 18


@dataclass(frozen=True)
class Artifact:
    """A trained model whose files are what they were when it was saved.

    Attributes:
        metrics: contents of metrics.json: accuracy a head, how it was trained and on what.
    """

    path: Path
    spec: Spec
    metrics: Mapping[str, Any]

    @property
    def keras_path(self) -> Path:
        return self.path / KERAS

    @property
    def onnx_path(self) -> Path:
        return self.path / ONNX

    @property
    def int8_path(self) -> Path:
        return self.path / INT8


def load_artifact(path: Path | str) -> Artifact:
    """Verify the artifact at `path` and read what describes it.

    Raises:
        ArtifactError: a file is missing or altered, or spec and metrics name different heads.
    """
    path = Path(path)
    if not path.is_dir():
        raise ArtifactError(f"no model at {path}; train one, or name another directory")
    sums = _read_sums(path)
    contents = {name: _read(path / name) for name in sums}
    for name, digest in sums.items():
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise ArtifactError(
                f"{path / name} is not what {SUMS} says it was when the model was saved; "
                "restore the whole directory, or train again"
            )
    spec = _named(path / SPEC, lambda: Spec.from_json(contents[SPEC].decode()))
    metrics = _named(path / METRICS, lambda: json.loads(contents[METRICS]))
    measured = metrics.get("heads") if isinstance(metrics, dict) else None
    if not isinstance(measured, dict) or set(measured) != set(spec.heads):
        raise ArtifactError(
            f"{path / METRICS} does not measure the heads of {SPEC} ({', '.join(spec.heads)}); "
            "the files belong to different models, restore the whole directory"
        )
    return Artifact(path, spec, metrics)


def save_artifact(model: Any, spec: Spec, metrics: Mapping[str, Any], path: Path | str) -> Artifact:
    """Save a network in both formats, with all that describes it, in place of what was at `path`.

    The directory appears complete or not at all: everything is written beside it first.

    Args:
        model: Keras network of `spec`; it is saved without the state of its optimizer.

    Raises:
        ArtifactError: the two formats answer differently, or the network is not one of `spec`.
    """
    with _replacing(Path(path)) as new:
        new.mkdir()
        (new / SPEC).write_text(spec.to_json(), encoding="utf-8")
        _write_network(model, spec, new)
        (new / METRICS).write_text(_to_json(metrics), encoding="utf-8")
    return load_artifact(path)


def add_int8(artifact: Artifact, network: bytes, metrics: Mapping[str, Any]) -> Artifact:
    """Save the int8 edition of a network beside it, with metrics that measure it too."""
    with _replacing(artifact.path) as new:
        shutil.copytree(artifact.path, new)
        (new / INT8).write_bytes(network)
        (new / METRICS).write_text(_to_json(metrics), encoding="utf-8")
    return load_artifact(artifact.path)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Where to write an artifact that takes the place of `path` when it is whole and verified."""
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
    # Only saving needs these; a replica that loads must do without.
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
    # Made from the configuration alone it is not compiled: there is no optimizer to save.
    bare = keras.Model.from_config(model.get_config())
    bare.set_weights(model.get_weights())
    bare.save(path / KERAS)
    loaded = keras.saving.load_model(path / KERAS, safe_mode=True)
    answers = {head: output.shape[-1] for head, output in loaded.output.items()}
    wanted = {head: len(classes) for head, classes in spec.heads.items()}
    if answers != wanted:
        raise ArtifactError(f"the network has heads {answers}, its spec says {wanted}")

    signature = [tf.TensorSpec(shape, tf.uint8, name=INPUT)]
    function = tf.function(lambda images: loaded(images, training=False), signature)
    proto, _ = tf2onnx.convert.from_function(
        function, signature, opset=_OPSET, output_path=str(path / ONNX)
    )
    if {output.name for output in proto.graph.output} != set(spec.heads):
        raise ArtifactError(f"the ONNX outputs are {[o.name for o in proto.graph.output]}")

    images = np.random.default_rng(0).integers(0, 256, (5, *shape[1:]), dtype=np.uint8)
    images[0], images[1] = 255, 0
    session = onnxruntime.InferenceSession(path / ONNX, providers=["CPUExecutionProvider"])
    outputs = dict(zip(spec.heads, session.run(list(spec.heads), {INPUT: images}), strict=True))
    refuse_difference(loaded.predict_on_batch(images), outputs)


def refuse_difference(
    keras_outputs: Mapping[str, NDArray[np.float32]], onnx_outputs: Mapping[str, Any]
) -> None:
    """Compare the answers of both formats to the same images.

    Raises:
        ArtifactError: a probability differs by more than MAX_DIFFERENCE.
    """
    for head, probabilities in keras_outputs.items():
        difference = float(np.abs(probabilities - onnx_outputs[head]).max())
        if not difference <= MAX_DIFFERENCE:
            raise ArtifactError(
                f"{ONNX} and {KERAS} differ by {difference:.2g} in {head}, over {MAX_DIFFERENCE}; "
                "the export is wrong, nothing was saved"
            )


def _read_sums(path: Path) -> dict[str, str]:
    sums = {}
    for line in _read(path / SUMS).decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if not name or Path(name).name != name:
            raise ArtifactError(f"{path / SUMS}: not a checksum and a file name: {line!r}")
        sums[name] = digest
    for name in (SPEC, KERAS, ONNX, METRICS):
        if name not in sums:
            raise ArtifactError(f"{path / SUMS} does not cover {name}; restore it, or train again")
    return sums


def _write_sums(path: Path) -> None:
    files = sorted(file for file in path.iterdir() if file.name != SUMS)
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (path / SUMS).write_text("".join(lines), encoding="ascii")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{file} can't be read ({error.strerror}); restore the directory, or train again"
        ) from error


def _named(file: Path, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except (ArtifactError, ValueError) as error:
        raise ArtifactError(f"{file}: {error}; restore the directory, or train again") from error


def _to_json(metrics: Mapping[str, Any]) -> str:
    return json.dumps(metrics, indent=1, ensure_ascii=False) + "\n"

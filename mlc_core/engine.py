"""What runs a model in a replica. Importing this imports neither ONNX Runtime nor TensorFlow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mlc_core.artifact import Artifact
from mlc_core.errors import ArtifactError
from mlc_core.spec import Spec

EngineName = Literal["onnxruntime", "tensorflow", "emulated"]
Precision = Literal["float32", "int8", "bfloat16"]

CPU_INFO = Path("/proc/cpuinfo")

Images = NDArray[np.uint8]  # (N, H, W, 3), RGB
Probabilities = dict[str, NDArray[np.float32]]  # head -> (N, classes), each row sums to 1


class Engine(Protocol):
    """A loaded model. Called from one thread at a time."""

    def infer(self, images: Images) -> Probabilities:
        """Run the network on images of just the size its spec states."""
        ...


def load_engine(
    name: EngineName,
    artifact: Artifact,
    threads: int = 1,
    precision: Precision = "float32",
    emulated_s: tuple[float, float] = (0.0, 0.0),
) -> Engine:
    """Load the artifact's network and check that its heads are what the spec says.

    Args:
        threads: threads that one inference may use; 0 leaves it to the engine.
        precision: float32; int8 with onnxruntime, for an artifact that has that edition; bfloat16
            with tensorflow, for a GPU.
        emulated_s: with emulated, the seconds of any batch and those of each image in it.

    Raises:
        ArtifactError: the network can't be loaded, or contradicts its spec.
        ValueError: no such engine, or not with that precision.
    """
    engine: Engine
    if (name, precision) in (("onnxruntime", "float32"), ("onnxruntime", "int8")):
        int8 = precision == "int8"
        if int8 and not artifact.int8_path.exists():
            raise ArtifactError(
                f"{artifact.path} has no int8 edition; make it with `mlc quantize`, "
                "or serve it in float32"
            )
        engine = load_onnx(artifact.int8_path if int8 else artifact.onnx_path, threads)
    elif (name, precision) in (("tensorflow", "float32"), ("tensorflow", "bfloat16")):
        from mlc_core.tensorflow_engine import TensorFlow  # noqa: PLC0415  (seconds and 500 MB)

        mixed = precision == "bfloat16"
        engine = TensorFlow(artifact.keras_path, artifact.spec, threads, mixed=mixed)
    elif name == "emulated":
        engine = Emulated(artifact.spec, *emulated_s)
    else:
        raise ValueError(
            f"no engine {name!r} in {precision!r}; there are onnxruntime in float32 and int8, "
            "tensorflow in float32 and bfloat16, emulated in any"
        )
    _check(engine, artifact.spec)
    return engine


def _check(engine: Engine, spec: Spec) -> None:
    height_px, width_px = spec.image.height_px, spec.image.width_px
    try:
        answer = engine.infer(np.full((1, height_px, width_px, 3), 255, np.uint8))
    except Exception as error:  # each engine has errors of its own
        raise ArtifactError(f"the network does not take {spec.image} images: {error}") from error
    found = {head: p.shape[1] for head, p in answer.items()}
    stated = {head: len(classes) for head, classes in spec.heads.items()}
    if found != stated:
        raise ArtifactError(f"the network has heads {found}, its spec.json says {stated}")


def load_onnx(path: Path, threads: int) -> Engine:
    """An ONNX file as an engine.

    Raises:
        ArtifactError: it can't be loaded.
    """
    return _OnnxRuntime(path, threads)


def _has_vnni() -> bool:
    """Whether the processor sums int8 products in 32 bits; no, where that can't be told."""
    return CPU_INFO.exists() and "vnni" in CPU_INFO.read_text(encoding="utf-8")


class Emulated:
    """Takes the time of a batch, but no core: to rehearse scaling where no such engine is.

    Its labels mean nothing: each image gets one that follows from its pixels, always the same.

    Args:
        batch_s: seconds of any batch.
        image_s: seconds of each image in it, added.
    """

    def __init__(self, spec: Spec, batch_s: float, image_s: float) -> None:
        self._spec, self._batch_s, self._image_s = spec, batch_s, image_s

    def infer(self, images: Images) -> Probabilities:
        until = time.perf_counter() + self._batch_s + self._image_s * len(images)
        digests = images.reshape(len(images), -1).sum(axis=1, dtype=np.int64)  # (N,)
        answers = {}
        for head, classes in self._spec.heads.items():
            rows = np.full((len(images), len(classes)), 0.1 / len(classes), np.float32)
            rows[np.arange(len(images)), digests % len(classes)] += 0.9
            answers[head] = rows
        time.sleep(max(0.0, until - time.perf_counter()))
        return answers


class _OnnxRuntime:
    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime as ort  # noqa: PLC0415  (training and tests of other parts do without)

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait take the cores from decoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not _has_vnni():
            # The sums of int8 products would saturate, and most labels be wrong. Not for all,
            # since it doubles the time where they don't.
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise ArtifactError(f"{path} can't be loaded: {error}") from error
        # By name: ONNX sorts outputs alphabetically, a spec does not.
        self._heads = [output.name for output in self._session.get_outputs()]
        self._input = self._session.get_inputs()[0].name

    def infer(self, images: Images) -> Probabilities:
        return dict(zip(self._heads, self._session.run(None, {self._input: images}), strict=True))

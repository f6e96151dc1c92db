"""The TensorFlow engine, for GPUs. It runs on a CPU too. Importing it imports TensorFlow."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mlc_core.engines.engine import Images, Probabilities
from mlc_core.errors import ArtifactError
from mlc_core.spec import Spec

# A batch is padded to the next of these sizes, so that TensorFlow traces each shape once, during
# warm-up.
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class TensorFlow:
    """model.keras as a traced function. Construction warms it up on every bucket.

    Args:
        threads: threads of one operation on the CPU; 0 leaves it to TensorFlow.
        bfloat16: compute in bfloat16, except in the last layer of each head. Weights and
            probabilities stay float32.

    Raises:
        ArtifactError: Keras can't load the file.
    """

    def __init__(self, path: Path, spec: Spec, threads: int, *, bfloat16: bool) -> None:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, enable=True)
        with contextlib.suppress(RuntimeError):  # TensorFlow fixes it at its first operation
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        try:
            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # Keras has no exception of its own for this
            raise ArtifactError(f"{path} can't be loaded: {error}") from error
        if bfloat16:
            model = _in_bfloat16(model)
        self._largest = BATCH_BUCKETS[-1]

        @tf.function(reduce_retracing=False)  # type: ignore[untyped-decorator]
        def run(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return model(images, training=False)  # type: ignore[no-any-return]

        self._run = run
        for size in BATCH_BUCKETS:
            self.infer(np.zeros((size, spec.image.height_px, spec.image.width_px, 3), np.uint8))

    @property
    def traces(self) -> int:
        """How often TensorFlow has traced the network: once for each bucket, and never again."""
        return int(self._run.experimental_get_tracing_count())

    def infer(self, images: Images) -> Probabilities:
        parts = [
            self._infer_padded(images[at : at + self._largest])
            for at in range(0, len(images), self._largest)
        ]
        return {head: np.concatenate([part[head] for part in parts]) for head in parts[0]}

    def _infer_padded(self, images: Images) -> Probabilities:
        count = len(images)
        bucket = next(size for size in BATCH_BUCKETS if size >= count)
        if bucket > count:
            padding = np.zeros((bucket - count, *images.shape[1:]), np.uint8)
            images = np.concatenate([images, padding])
        return {head: p.numpy()[:count] for head, p in self._run(images).items()}


def _in_bfloat16(model: Any) -> Any:
    """The same network in Keras' policy mixed_bfloat16; the last layers keep their own policy."""
    config = model.get_config()
    for layer in config["layers"]:
        if layer["class_name"] != "InputLayer" and layer["name"] not in model.output:
            layer["config"]["dtype"] = "mixed_bfloat16"
    mixed = keras.Model.from_config(config)
    mixed.set_weights(model.get_weights())
    return mixed

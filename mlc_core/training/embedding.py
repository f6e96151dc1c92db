"""Adds an embedding to a trained network, so that photos that look alike get vectors that are near.

The network is frozen, and its heads stay as they are. The embedding is a projection of what its
branches and pools say. Two losses train it: a photo is to be nearer to a variant of
itself than to other photos (InfoNCE, van den Oord et al. 2018, arXiv:1807.03748), and near to a
vector of its class (normalised softmax, Zhai and Wu 2019, arXiv:1811.12649).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from mlc_core.sources.files import Progress
from mlc_core.spec import EMBEDDING, Spec
from mlc_core.training.dataset import DataSet
from mlc_core.training.evaluation import class_numbers
from mlc_core.training.network import features_of
from mlc_core.training.variants import vary

DIMENSIONS = 128
_TEMPERATURE = 0.05  # of similarities between photos
_CLASS_TEMPERATURE = 0.1  # of similarities to classes
_CLASS_SHARE = 0.1  # of the loss
_CLASSES = ("color", "category")  # the heads that shoppers compare by
_BATCH, _EPOCHS, _LEARNING_RATE = 512, 12, 2e-3
_VARIANTS = 2  # of each photo


def add_embedding(
    network: Any, data: DataSet, spec: Spec, seed: int, report: Progress = print
) -> Any:
    """The network with one more output, EMBEDDING: float32 (N, DIMENSIONS), rows of length 1.

    Args:
        data: photos that trained the network.
    """
    report(f"training an embedding of {DIMENSIONS} dimensions")
    said = features_of(network, spec)
    features = keras.Model(network.input, said)
    rng = np.random.default_rng(seed)
    plain = features.predict(data.images, batch_size=256, verbose=0)
    varied = [
        features.predict(
            np.stack([vary(image, rng) for image in data.images]), batch_size=256, verbose=0
        )
        for _ in range(_VARIANTS)
    ]
    keras.utils.set_random_seed(seed)
    projection = layers.Dense(DIMENSIONS, name="projection")
    _fit(projection, plain, varied, data, spec)
    vectors = layers.UnitNormalization(dtype="float32", name=EMBEDDING)(projection(said))
    return keras.Model(network.input, {**network.output, EMBEDDING: vectors}, name=network.name)


def _fit(
    projection: Any,
    plain: NDArray[np.float32],
    varied: list[NDArray[np.float32]],
    data: DataSet,
    spec: Spec,
) -> None:
    """Train a projection of features.

    Args:
        plain: (N, D) features of the photos.
        varied: features of variants of them, as often as there are variants.
    """
    width = plain.shape[1]
    photos, variants = layers.Input((width,)), layers.Input((width,))
    units = [layers.UnitNormalization()(projection(each)) for each in (photos, variants)]
    outputs, targets, losses = {"pairs": layers.Concatenate()(units)}, {}, {"pairs": _pair_loss}
    for head in (head for head in _CLASSES if head in spec.heads):
        classes = spec.heads[head]
        near = layers.Dense(
            len(classes), use_bias=False, kernel_constraint=keras.constraints.UnitNorm(axis=0)
        )
        truth = class_numbers(data.labels[head], classes)
        for name, unit in zip(("photo", "variant"), units, strict=True):
            outputs[f"{head}_{name}"] = layers.Rescaling(1 / _CLASS_TEMPERATURE)(near(unit))
            targets[f"{head}_{name}"] = np.concatenate([truth] * len(varied))
            losses[f"{head}_{name}"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    features = [np.concatenate([plain] * len(varied)), np.concatenate(varied)]
    targets["pairs"] = np.zeros(len(features[0]), np.float32)
    steps = _EPOCHS * -(-len(features[0]) // _BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    model = keras.Model([photos, variants], outputs)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01),
        loss=losses,
        loss_weights={name: 1.0 if name == "pairs" else _CLASS_SHARE / 2 for name in outputs},
        jit_compile=False,
    )
    model.fit(features, targets, batch_size=_BATCH, epochs=_EPOCHS, verbose=0)


def _pair_loss(_: Any, pairs: Any) -> Any:
    """InfoNCE of photos and variants that are side by side, (N, 2 × DIMENSIONS)."""
    photos, variants = ops.split(pairs, 2, axis=1)
    similarity = ops.matmul(photos, ops.transpose(variants)) / _TEMPERATURE
    same = ops.arange(ops.shape(similarity)[0])
    return (
        ops.mean(keras.losses.sparse_categorical_crossentropy(same, similarity, from_logits=True))
        + ops.mean(
            keras.losses.sparse_categorical_crossentropy(
                same, ops.transpose(similarity), from_logits=True
            )
        )
    ) / 2

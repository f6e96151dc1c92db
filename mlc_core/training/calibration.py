"""Fits, on the validation split, what a model's labels can promise, and measures if they do.

Temperatures make a confidence the share of labels that are right (Guo et al. 2017,
arXiv:1706.04599). Thresholds say from which confidence on labels have a precision. The taxonomy is
what the labels of the training split have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import beta

from mlc_core.engines.engine import Probabilities
from mlc_core.labels import Choice, Labeller, entropy
from mlc_core.spec import Spec
from mlc_core.taxonomy import Named
from mlc_core.training.dataset import DataSet
from mlc_core.training.evaluation import class_numbers, infer_all

PRECISIONS = (0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)
# How often the precision of validation photos may reach a promise by chance alone, at a threshold
# that is given. What 5% instead would cost: docs/LOG.md.
_RISK = 0.1
# Of the validation photos, so many are called unlike those of the training. What it costs and what
# it finds: docs/LOG.md.
_STRANGE = 0.03
_MAX_LOG_TEMPERATURE = 1.4


def calibrate(model: Any, spec: Spec, train: DataSet, validation: DataSet) -> Spec:
    """Divide the logits of a network by temperatures, and learn what its labels can promise.

    The temperatures become part of the weights of the last layers. So every engine and format
    applies them, at no cost.

    Args:
        model: Keras network of `spec`; its last layers are changed.

    Returns:
        The spec with temperatures, taxonomy, thresholds and the bound on the entropy.
    """
    truth = {head: class_numbers(validation.labels[head], spec.heads[head]) for head in spec.heads}
    raw = infer_all(model.predict_on_batch, validation.images)
    temperatures = {head: round(fit_temperature(raw[head], truth[head]), 4) for head in spec.heads}
    apply_temperatures(model, temperatures)
    probabilities = infer_all(model.predict_on_batch, validation.images)
    doubt = entropy([probabilities[head] for head in spec.hierarchy or spec.heads])
    spec = replace(
        spec,
        temperatures=temperatures,
        taxonomy=learn_taxonomy(spec, train),
        max_entropy=round(float(np.quantile(doubt, 1 - _STRANGE)), 4),
    )
    familiar = Labeller(spec).familiar(probabilities)
    named = Labeller(spec).name(probabilities, [Choice()] * len(validation))
    confidence = confidences(probabilities, named)
    return replace(
        spec,
        thresholds={
            head: fit_thresholds(confidence[head][familiar], (named[head] == truth[head])[familiar])
            for head in spec.heads
        },
    )


def apply_temperatures(model: Any, temperatures: Mapping[str, float]) -> None:
    """Divide the logits of a network, by head."""
    for head, temperature in temperatures.items():
        layer = model.get_layer(head)
        layer.set_weights([weights / temperature for weights in layer.get_weights()])


def learn_taxonomy(spec: Spec, data: DataSet) -> tuple[tuple[str, ...], ...]:
    """The paths that occur in labels, sorted; none if the model has fewer than two such heads."""
    if len(spec.hierarchy) < 2:
        return ()
    labels = [data.labels[head].tolist() for head in spec.hierarchy]
    return tuple(sorted(set(zip(*labels, strict=True))))


def confidences(probabilities: Probabilities, named: Named) -> dict[str, NDArray[np.float32]]:
    """The confidence of each head's label, shape (N,)."""
    return {
        head: probabilities[head][np.arange(len(classes)), classes]
        for head, classes in named.items()
    }


def fit_temperature(probabilities: NDArray[np.float32], truth: NDArray[np.intp]) -> float:
    """The temperature with the least cross-entropy.

    Args:
        probabilities: (N, classes), before calibration.
        truth: (N,) class numbers; photos of unknown class (-1) are left out.
    """
    known = truth >= 0
    if not known.any():
        return 1.0
    logits = np.log(np.maximum(probabilities[known].astype(np.float64), 1e-30))
    right = logits[np.arange(len(logits)), truth[known]]

    def cross_entropy(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        return float(np.mean(np.logaddexp.reduce(logits / temperature, 1) - right / temperature))

    bounds = (-_MAX_LOG_TEMPERATURE, _MAX_LOG_TEMPERATURE)
    return float(np.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x))


def fit_thresholds(
    confidence: NDArray[np.float32], right: NDArray[np.bool_]
) -> dict[float, float | None]:
    """The lowest confidence from which on labels have each of PRECISIONS.

    The lower bound of the precision (Clopper and Pearson 1934, one-sided) must reach it.

    Args:
        confidence: (N,), of labels.
        right: (N,), whether the label is right.
    """
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order].astype(np.float64)
    hits, of = np.cumsum(right[order]), np.arange(1, len(order) + 1)
    low = np.where(hits > 0, beta.ppf(_RISK, np.maximum(hits, 1), of - hits + 1), 0.0)
    # Labels of equal confidence share a fate.
    complete = np.append(ordered[1:] < ordered[:-1], True)
    found: dict[float, float | None] = {}
    for precision in PRECISIONS:
        enough = np.flatnonzero(complete & (low >= precision))
        # Rounded down, as float32 is not as fine.
        found[precision] = float(np.floor(ordered[enough[-1]] * 1e5) / 1e5) if len(enough) else None
    return found

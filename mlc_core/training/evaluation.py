"""Measures how good a model's labels are on photos that it never saw: the numbers of metrics.json.

The labels are those that the service answers by default: they agree with the taxonomy.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from mlc_core.labels import Choice, Labeller
from mlc_core.photo import decode
from mlc_core.spec import ImageSize, Spec
from mlc_core.taxonomy import Named, Taxonomy
from mlc_core.training.dataset import DataSet

Infer = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]]

INTERVALS = (
    "95%; accuracies: Wilson score interval (Wilson 1927); macro-F1: percentile bootstrap over "
    "photos, 1000 resamples (Efron 1979), classes that occur in the resample"
)
# Widths and heights: 3.75 times (a larger version of the data set) and 18 times its photos.
LARGER_PX = ((225, 300), (1080, 1440))
BINS = 20  # of confidence
_RESAMPLES = 1000
_CONFUSIONS = 10  # that are listed
_BATCH = 256


def measure(
    infer: Infer,
    test: DataSet,
    spec: Spec,
    seed: int = 0,
    larger_px: Sequence[tuple[int, int]] = LARGER_PX,
) -> dict[str, Any]:
    """Accuracy, top-3 accuracy, macro-F1 and reliability of every head, and what it confuses.

    A label that the model has no class for counts as wrong, and as a class in macro-F1.

    Args:
        infer: uint8 images (N, H, W, 3) -> head -> float32 (N, classes).
        test: photos that had no part in training.
        seed: of the bootstrap.
        larger_px: widths and heights of the enlarged photos to measure on as well.

    Returns:
        What metrics.json holds under "heads", "hierarchy", "intervals", "test_photos" and
        "larger_photos".
    """
    probabilities = infer_all(infer, test.images)
    named = name_all(probabilities, spec)
    familiar = Labeller(spec).familiar(dict(probabilities))
    heads = {}
    for head, classes in spec.heads.items():
        every_class = (*classes, *unknown_classes(test.labels[head], classes))
        truth = class_numbers(test.labels[head], every_class)
        own = probabilities[head].argmax(axis=1)
        best_3 = np.argsort(-probabilities[head], axis=1, kind="stable")[:, :3]
        heads[head] = {
            "classes": len(classes),
            "accuracy": share((named[head] == truth).sum(), len(truth)),
            "own_accuracy": round(float(np.mean(own == truth)), 4),
            "top_3_accuracy": share((best_3 == truth[:, None]).any(axis=1).sum(), len(truth)),
            "macro_f1": _bootstrapped_f1(truth, named[head], len(every_class), seed),
            **reliability(
                probabilities[head], named[head], truth, spec.thresholds.get(head, {}), familiar
            ),
            "per_class": per_class(truth, named[head], every_class),
            "confusions": confusions(truth, named[head], every_class),
        }
    return {
        "test_photos": len(test),
        "heads": heads,
        "hierarchy": _measure_hierarchy(probabilities, named, test, spec),
        "intervals": INTERVALS,
        "larger_photos": _measure_larger(infer, test, spec, larger_px),
    }


def accuracies(infer: Infer, test: DataSet, spec: Spec) -> dict[str, float]:
    """The share of photos that each head gets right."""
    named = name_all(infer_all(infer, test.images), spec)
    return {
        head: round(float(np.mean(named[head] == class_numbers(test.labels[head], classes))), 4)
        for head, classes in spec.heads.items()
    }


def cross_entropy(infer: Infer, data: DataSet, spec: Spec) -> float:
    """Mean over photos, summed over heads, of the negative logarithm of the label's probability."""
    probabilities = infer_all(infer, data.images)
    total = 0.0
    for head, classes in spec.heads.items():
        truth = class_numbers(data.labels[head], classes)
        known = np.flatnonzero(truth >= 0)
        right = probabilities[head][known, truth[known]]
        total -= float(np.log(np.maximum(right, np.finfo(np.float32).tiny)).mean())
    return round(total, 4)


def name_all(probabilities: Mapping[str, NDArray[np.float32]], spec: Spec) -> Named:
    """The class that each head names for each photo, as the service does by default."""
    photos = len(next(iter(probabilities.values())))
    return Labeller(spec).name(dict(probabilities), [Choice()] * photos)


def reliability(
    probabilities: NDArray[np.float32],
    named: NDArray[np.intp],
    truth: NDArray[np.intp],
    thresholds: Mapping[float, float | None],
    familiar: NDArray[np.bool_],
) -> dict[str, Any]:
    """Whether the confidence of a head's labels means what it says, and promises hold.

    Args:
        familiar: (N,), whether a photo may be promised a precision.

    Returns:
        "calibration_error", with what chance alone would bring, and "precisions": for each one
        that can be asked for, the share of photos that get a label and how many of these are right.
    """
    confidence, right = probabilities[np.arange(len(named)), named], named == truth
    rng = np.random.default_rng(0)
    drawn = [calibration_error(confidence, rng.random(len(named)) < confidence) for _ in range(200)]
    precisions = {}
    for precision, least in thresholds.items():
        sure = familiar & (confidence >= (np.inf if least is None else least))
        precisions[f"{precision:g}"] = {
            "coverage": round(float(sure.mean()), 4),
            "precision": round(float(right[sure].mean()), 4) if sure.any() else None,
        }
    return {
        "calibration_error": {
            "value": round(calibration_error(confidence, right), 4),
            "by_chance": round(float(np.mean(drawn)), 4),
        },
        "precisions": precisions,
    }


def calibration_error(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Expected calibration error over BINS bins of equal width (Naeini et al. 2015, AAAI)."""
    bins = bin_numbers(confidence)
    gaps = np.bincount(bins, confidence.astype(np.float64) - right, BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def bin_numbers(confidence: NDArray[np.float32]) -> NDArray[np.intp]:
    """The bin of each confidence, of BINS of equal width."""
    return np.minimum((confidence * BINS).astype(np.intp), BINS - 1)


def per_class(
    truth: NDArray[np.intp], named: NDArray[np.intp], classes: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Precision, recall and support of each class that occurs or is named, most frequent first."""
    support = np.bincount(truth, minlength=len(classes))
    answered = np.bincount(named, minlength=len(classes))
    right = np.bincount(truth[truth == named], minlength=len(classes))
    order = np.argsort(-support, kind="stable")
    return {
        classes[at]: {
            "precision": round(float(right[at] / answered[at]), 4) if answered[at] else None,
            "recall": round(float(right[at] / support[at]), 4) if support[at] else None,
            "support": int(support[at]),
        }
        for at in order.tolist()
        if support[at] or answered[at]
    }


def confusions(
    truth: NDArray[np.intp], named: NDArray[np.intp], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """The commonest wrong labels, most frequent first."""
    wrong = Counter(
        zip(truth[truth != named].tolist(), named[truth != named].tolist(), strict=True)
    )
    return [
        {"label": classes[label], "named": classes[name], "photos": photos}
        for (label, name), photos in wrong.most_common(_CONFUSIONS)
    ]


def hierarchical_f1(truth: Sequence[NDArray[np.intp]], named: Sequence[NDArray[np.intp]]) -> float:
    """F1 over the classes of a path and all above them (Kiritchenko et al. 2005, AAAI workshop).

    A class counts as right only below right ones. All paths are equally long, so precision, recall
    and F1 are the same.

    Args:
        truth: (N,) class numbers for each level, the most general first.
        named: the same of the answers.
    """
    right = np.logical_and.accumulate(np.stack(truth) == np.stack(named), axis=0)  # (levels, N)
    return float(right.mean())


def share(hits: int, of: int) -> dict[str, float]:
    """A proportion and its Wilson score interval (Wilson 1927, JASA 22:209)."""
    interval = binomtest(int(hits), of).proportion_ci(0.95, method="wilson")
    return _rounded(hits / of, interval.low, interval.high)


def macro_f1(truth: NDArray[np.intp], guess: NDArray[np.intp], classes: int) -> float:
    """Mean F1 of the classes that occur in `truth`."""
    right = np.bincount(truth[truth == guess], minlength=classes)
    occurs = np.bincount(truth, minlength=classes)
    guessed = np.bincount(guess, minlength=classes)
    there = occurs > 0
    return float((2 * right[there] / (occurs[there] + guessed[there])).mean())


def infer_all(infer: Infer, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Probabilities of any number of images, a bounded batch at a time."""
    parts = [infer(images[at : at + _BATCH]) for at in range(0, len(images), _BATCH)]
    return {head: np.concatenate([part[head] for part in parts]) for head in parts[0]}


def class_numbers(labels: NDArray[np.str_], classes: tuple[str, ...]) -> NDArray[np.intp]:
    """Position of each label in `classes`; -1, which no guess equals, for any other label."""
    position = {label: at for at, label in enumerate(classes)}
    return np.array([position.get(label, -1) for label in labels.tolist()], dtype=np.intp)


def unknown_classes(labels: NDArray[np.str_], classes: tuple[str, ...]) -> dict[str, int]:
    """Labels that are not in `classes`, with their counts, most frequent first."""
    return dict(Counter(label for label in labels.tolist() if label not in classes).most_common())


def enlarge(image: NDArray[np.uint8], width_px: int, height_px: int) -> bytes:
    """The image, enlarged, as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(image).resize((width_px, height_px), Image.Resampling.LANCZOS).save(
        file, "JPEG", quality=90
    )
    return file.getvalue()


def _measure_hierarchy(
    probabilities: Mapping[str, NDArray[np.float32]], named: Named, test: DataSet, spec: Spec
) -> dict[str, Any]:
    heads = spec.hierarchy
    if not spec.taxonomy:
        return {}
    taxonomy = Taxonomy(spec)
    own = {head: rows.argmax(axis=1) for head, rows in probabilities.items()}
    truth = [class_numbers(test.labels[head], spec.heads[head]) for head in heads]
    return {
        "f1": round(hierarchical_f1(truth, [named[head] for head in heads]), 4),
        "own_f1": round(hierarchical_f1(truth, [own[head] for head in heads]), 4),
        "outside_taxonomy": round(float(1 - taxonomy.contains(named).mean()), 4),
        "own_outside_taxonomy": round(float(1 - taxonomy.contains(own).mean()), 4),
    }


def _measure_larger(
    infer: Infer, test: DataSet, spec: Spec, larger_px: Sequence[tuple[int, int]]
) -> dict[str, dict[str, float]]:
    accuracy = {}
    for width_px, height_px in larger_px:

        def reopened(
            image: NDArray[np.uint8], size: tuple[int, int] = (width_px, height_px)
        ) -> NDArray[np.uint8]:
            return decode(enlarge(image, *size), spec.image)

        with ThreadPoolExecutor() as pool:
            images = np.stack(list(pool.map(reopened, test.images)))
        larger = replace(test, images=images)
        accuracy[str(ImageSize(height_px, width_px))] = accuracies(infer, larger, spec)
    return accuracy


def _bootstrapped_f1(
    truth: NDArray[np.intp], guess: NDArray[np.intp], classes: int, seed: int
) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(_RESAMPLES):
        drawn = rng.choice(len(truth), len(truth))
        scores.append(macro_f1(truth[drawn], guess[drawn], classes))
    low, high = np.percentile(scores, [2.5, 97.5])
    return _rounded(macro_f1(truth, guess, classes), low, high)


def _rounded(value: float, low: float, high: float) -> dict[str, float]:
    return {
        "value": round(float(value), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }

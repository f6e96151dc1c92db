"""Measures how accurate a model is on photos that it never saw: the numbers of metrics.json."""

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

from mlc_core.photo import decode
from mlc_core.spec import ImageSize, Spec
from mlc_core.training.dataset import DataSet

Infer = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[np.float32]]]

INTERVALS = (
    "95%; accuracies: Wilson score interval (Wilson 1927); macro-F1: percentile bootstrap over "
    "photos, 1000 resamples (Efron 1979), classes that occur in the resample"
)
# Widths and heights: 3.75 times (a larger version of the data set) and 18 times its photos.
LARGER_PX = ((225, 300), (1080, 1440))
_RESAMPLES = 1000
_BATCH = 256


def measure(
    infer: Infer,
    test: DataSet,
    spec: Spec,
    seed: int = 0,
    larger_px: Sequence[tuple[int, int]] = LARGER_PX,
) -> dict[str, Any]:
    """Accuracy, top-3 accuracy and macro-F1 of every head, each with its interval.

    A label that the model has no class for counts as wrong, and as a class in macro-F1.

    Args:
        infer: uint8 images (N, H, W, 3) -> head -> float32 (N, classes).
        test: photos that had no part in training.
        seed: of the bootstrap.
        larger_px: widths and heights of the enlarged photos to measure on as well.

    Returns:
        What metrics.json holds under "heads", "intervals", "test_photos" and "larger_photos".
    """
    probabilities = infer_all(infer, test.images)
    heads = {}
    for head, classes in spec.heads.items():
        every_class = (*classes, *unknown_classes(test.labels[head], classes))
        truth = class_numbers(test.labels[head], every_class)
        guess = probabilities[head].argmax(axis=1)
        best_3 = np.argsort(-probabilities[head], axis=1, kind="stable")[:, :3]
        heads[head] = {
            "classes": len(classes),
            "accuracy": share((guess == truth).sum(), len(truth)),
            "top_3_accuracy": share((best_3 == truth[:, None]).any(axis=1).sum(), len(truth)),
            "macro_f1": _bootstrapped_f1(truth, guess, len(every_class), seed),
        }
    return {
        "test_photos": len(test),
        "heads": heads,
        "intervals": INTERVALS,
        "larger_photos": _measure_larger(infer, test, spec, larger_px),
    }


def accuracies(infer: Infer, test: DataSet, spec: Spec) -> dict[str, float]:
    """The share of photos that each head gets right."""
    probabilities = infer_all(infer, test.images)
    return {
        head: round(float(np.mean(guess == class_numbers(test.labels[head], classes))), 4)
        for head, classes in spec.heads.items()
        for guess in [probabilities[head].argmax(axis=1)]
    }


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

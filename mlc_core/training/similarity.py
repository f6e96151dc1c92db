"""Measures how alike the photos are whose embeddings are near: the numbers of metrics.json."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlc_core.spec import EMBEDDING, Spec
from mlc_core.training.dataset import DataSet
from mlc_core.training.evaluation import Infer, infer_all, share
from mlc_core.training.split import are_twins, picture_hashes
from mlc_core.training.variants import VARIANTS

NEAREST = 10
_LABELS = ("category", "color")
_SMALL_SHOP = 6000  # photos
_VARIED = 1000  # photos that are looked for by their variants
_QUERIES = 512  # at a time


def measure_similarity(infer: Infer, queries: DataSet, catalogue: DataSet, spec: Spec) -> Any:
    """How good the nearest photos of a catalogue are for photos that are not in it.

    Args:
        infer: as `evaluation.measure` takes it, of a model that has an embedding.

    Returns:
        What metrics.json holds under "similarity". "same": label, or both joined by "+" -> the
        share of the NEAREST nearest photos with the query's label, its 95% interval over queries
        (normal approximation). "found": variant -> the share of queries that are nearest of all
        photos to a variant of themselves (recall at 1), with the Wilson interval.
        "found_or_twin": the same, where a twin is as good: catalogues have a picture several times.
        "found_among_6000": the same as "found", among 6,000 of the photos, as in a smaller shop.
    """
    indexed = infer_all(infer, catalogue.images)[EMBEDDING]
    asked = infer_all(infer, queries.images)[EMBEDDING]
    near = nearest(asked, indexed, NEAREST)
    labels = [head for head in _LABELS if head in spec.heads]
    same = {head: catalogue.labels[head][near] == queries.labels[head][:, None] for head in labels}
    if len(labels) > 1:
        same["+".join(labels)] = np.logical_and.reduce(list(same.values()))
    rng = np.random.default_rng(0)
    taken = rng.permutation(len(queries))[:_VARIED]
    everything = np.concatenate([asked, indexed])
    images = np.concatenate([queries.images, catalogue.images])
    hashes = picture_hashes(queries.images[taken])
    others = rng.permutation(np.setdiff1d(np.arange(len(everything)), taken))
    some = np.concatenate([taken, others[: max(0, _SMALL_SHOP - len(taken))]])
    found, or_twin, in_small_shop = {}, {}, {}
    for name, variant in VARIANTS.items():
        varied = [variant(images[n], np.random.default_rng(n)) for n in taken.tolist()]
        embedded = infer_all(infer, np.stack(varied))[EMBEDDING]
        first = nearest(embedded, everything, 1)[:, 0]
        twins = (first == taken) | are_twins(picture_hashes(images[first]), hashes)
        found[name] = share(int((first == taken).sum()), len(taken))
        or_twin[name] = share(int(twins.sum()), len(taken))
        small = some[nearest(embedded, everything[some], 1)[:, 0]] == taken
        in_small_shop[name] = share(int(small.sum()), len(taken))
    return {
        "nearest": NEAREST,
        "catalogue_photos": len(catalogue),
        "queries": len(queries),
        "same": {head: _mean(each.mean(axis=1)) for head, each in same.items()},
        "found": found,
        "found_or_twin": or_twin,
        f"found_among_{_SMALL_SHOP}": in_small_shop,
    }


def nearest(
    asked: NDArray[np.float32], indexed: NDArray[np.float32], count: int
) -> NDArray[np.intp]:
    """Positions of the `count` most similar embeddings, the most similar first, (N, count)."""
    found = []
    for start in range(0, len(asked), _QUERIES):
        similarity = asked[start : start + _QUERIES] @ indexed.T
        best = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(similarity, best, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(found)


def _mean(values: NDArray[np.float64]) -> dict[str, float]:
    mean, error = float(values.mean()), 1.96 * float(values.std()) / np.sqrt(len(values))
    return {
        "value": round(mean, 4),
        "low": round(float(mean - error), 4),
        "high": round(float(mean + error), 4),
    }

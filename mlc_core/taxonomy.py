"""Makes the labels of a photo agree: they are a path that occurs in the labels of the training."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from mlc_core.engines.engine import Probabilities
from mlc_core.spec import Spec

# Sub-category knows of both its neighbours, and master category the least of the others. With equal
# weights, sub_category is right on 4 or 5 fewer of 3,800 photos than alone (docs/LOG.md).
WEIGHTS = {"master_category": 0.25, "sub_category": 2.0, "category": 1.0}

Named = dict[str, NDArray[np.intp]]  # head -> (N,) class numbers


class Taxonomy:
    """The paths of a spec, prepared for many photos at a time.

    The most probable path has the largest product of the probabilities that the heads give its
    classes, each raised to its head's weight. If the most probable classes of the heads are a path,
    it is that one. So only the few other photos, 1 to 3 in a hundred, cost more than looking that
    up.
    """

    def __init__(self, spec: Spec) -> None:
        numbers = [
            [spec.heads[head].index(name) for head, name in zip(spec.hierarchy, path, strict=True)]
            for path in spec.taxonomy
        ]
        self.heads = spec.hierarchy
        self._paths = np.array(numbers, np.intp).reshape(len(numbers), len(self.heads)).T  # (H, P)
        sizes = [len(spec.heads[head]) for head in self.heads]
        self._strides = [prod(sizes[at + 1 :]) for at in range(len(sizes))]
        self._is_path = np.zeros(prod(sizes), bool)
        self._is_path[self._keys(list(self._paths))] = True

    def agree(self, probabilities: Probabilities, own: Named) -> Named:
        """The classes of each photo's most probable path.

        Args:
            probabilities: head -> float32 (N, classes).
            own: the most probable class of each head.

        Returns:
            `own`, with other classes for the heads of the hierarchy where they are no path.
        """
        if not self._paths.size:
            return own
        apart = np.flatnonzero(~self._is_path[self._keys([own[head] for head in self.heads])])
        if not len(apart):
            return own
        # Sums of logarithms, since products of small probabilities could all be 0.
        scores = np.zeros((len(apart), self._paths.shape[1]), np.float32)
        for head, classes in zip(self.heads, self._paths, strict=True):
            logs = np.log(np.maximum(probabilities[head][apart], np.finfo(np.float32).tiny))
            scores += np.float32(WEIGHTS[head]) * logs[:, classes]
        best = scores.argmax(axis=1)
        agreeing = dict(own)
        for head, classes in zip(self.heads, self._paths, strict=True):
            agreeing[head] = own[head].copy()
            agreeing[head][apart] = classes[best]
        return agreeing

    def contains(self, named: Named) -> NDArray[np.bool_]:
        """Whether the classes of each photo are a path."""
        return self._is_path[self._keys([named[head] for head in self.heads])]

    def _keys(self, classes: list[NDArray[np.intp]]) -> NDArray[np.intp]:
        return np.asarray(
            sum(each * stride for each, stride in zip(classes, self._strides, strict=True)), np.intp
        )

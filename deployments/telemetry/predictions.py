"""Sums up the predictions of a model and their confidence, between two exports of metrics."""

from __future__ import annotations

from threading import Lock

import numpy as np
from numpy.typing import NDArray

from deployments.telemetry.catalogue import CONFIDENCE, LABEL_CONFIDENCE, LABELS, PREDICTIONS
from deployments.telemetry.recorder import Recorder
from mlc_core.engines.engine import Probabilities
from mlc_core.spec import Spec
from mlc_core.taxonomy import Named


class PredictionSums:
    """The sums of one model.

    Engine threads add to it. A lock makes sure that no batch is lost when two add at the same time.
    """

    def __init__(self, spec: Spec, recorder: Recorder) -> None:
        self._spec, self._recorder, self._lock = spec, recorder, Lock()
        self._counts = {head: np.zeros(len(names), np.int64) for head, names in spec.heads.items()}
        self._confidence = dict.fromkeys(spec.heads, 0.0)

    def add(self, probabilities: Probabilities, named: Named) -> None:
        """Add a batch.

        Args:
            probabilities: head -> float32 (N, classes), N at least 1.
            named: head -> (N,) numbers of the classes that the answers name.
        """
        if not self._recorder.enabled:
            return
        with self._lock:
            for head, classes in self._spec.heads.items():
                rows: NDArray[np.float32] = probabilities[head]
                best = named[head]
                confidence = rows[np.arange(len(rows)), best]
                self._counts[head] += np.bincount(best, minlength=len(classes))
                self._confidence[head] += float(confidence.sum())
                labels = {"head": head, "version": self._spec.version}
                self._recorder.record(CONFIDENCE, float(confidence[0]), **labels)

    def record(self) -> None:
        """Record the sums since the last call."""
        record = self._recorder.record
        with self._lock:
            for head, classes in self._spec.heads.items():
                labels = {"head": head, "version": self._spec.version}
                record(LABEL_CONFIDENCE, self._confidence[head], **labels)
                record(LABELS, int(self._counts[head].sum()), **labels)
                for number in np.flatnonzero(self._counts[head]):
                    count = int(self._counts[head][number])
                    record(PREDICTIONS, count, **labels, **{"class": classes[number]})
                self._counts[head][:], self._confidence[head] = 0, 0.0

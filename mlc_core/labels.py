"""Probabilities to the labels of an answer, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_core.engine import Probabilities
from mlc_core.spec import Spec

MAX_TOP_K = 20


class Choice(NamedTuple):
    """How the labels of one photo are chosen.

    Attributes:
        top_k: classes a head names, 1 to MAX_TOP_K: the label and top_k - 1 alternatives.
        min_confidence: a head below it answers no label.
    """

    top_k: int = 1
    min_confidence: float = 0.0


class Labeller:
    """Writes the answers of one model. Class names are encoded once, not for each photo."""

    def __init__(self, spec: Spec) -> None:
        self._model = json.dumps({"name": spec.name, "version": spec.version})
        self._classes = {
            head: [json.dumps(name, ensure_ascii=False) for name in classes]
            for head, classes in spec.heads.items()
        }

    def answers(self, probabilities: Probabilities, choices: Sequence[Choice]) -> list[bytes]:
        """The JSON body that answers each photo.

        Args:
            probabilities: head -> float32 (N, classes).
            choices: N of them.
        """
        # As Python's own numbers, which are several times faster to look up and to write.
        best = {head: probabilities[head].argmax(axis=1).tolist() for head in self._classes}
        confidence = {head: probabilities[head].max(axis=1).tolist() for head in self._classes}
        answers = []
        for row, choice in enumerate(choices):
            labels = ",".join(
                self._label(
                    head, best[head][row], confidence[head][row], choice, probabilities[head], row
                )
                for head in self._classes
            )
            answers.append(f'{{"model":{self._model},"labels":{{{labels}}}}}'.encode())
        return answers

    def _label(
        self,
        head: str,
        best: int,
        confidence: float,
        choice: Choice,
        probabilities: NDArray[np.float32],
        row: int,
    ) -> str:
        classes = self._classes[head]
        label = classes[best] if confidence >= choice.min_confidence else "null"
        others: list[str] = []
        if choice.top_k > 1:
            # Stable, so that equal probabilities keep the order of the classes, as argmax does.
            order = np.argsort(-probabilities[row], kind="stable")[1 : choice.top_k]
            others = [
                f'{{"label":{classes[n]},"confidence":{probabilities[row, n]:.4f}}}' for n in order
            ]
        return (
            f'"{head}":{{"label":{label},"confidence":{confidence:.4f},'
            f'"alternatives":[{",".join(others)}]}}'
        )

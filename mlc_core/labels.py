"""Writes the JSON that answers a photo, from probabilities; parses and merges such answers.

Replicas pass an answer on as bytes and read none of its keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_core.engines.engine import Probabilities
from mlc_core.spec import Spec

MAX_TOP_K = 20


class Choice(NamedTuple):
    """How the labels of one photo are chosen.

    Attributes:
        top_k: classes that a head names, 1 to MAX_TOP_K: the label and top_k - 1 alternatives.
        min_confidence: a head with a lower confidence answers null instead of a label, and its
            best class comes first among the alternatives.
    """

    top_k: int = 1
    min_confidence: float = 0.0


_PLAIN = Choice()


class Labeller:
    """Writes the answers of one model. It encodes the class names once, not for each photo."""

    def __init__(self, spec: Spec) -> None:
        self._model = json.dumps({"name": spec.name, "version": spec.version})
        self._classes = {
            head: [json.dumps(name, ensure_ascii=False) for name in classes]
            for head, classes in spec.heads.items()
        }
        # What most clients ask for, as templates of one confidence each.
        self._plain = {
            head: [
                f'"{head}":{{"label":{name.replace("%", "%%")},'
                '"confidence":%.4f,"alternatives":[]}'
                for name in names
            ]
            for head, names in self._classes.items()
        }

    def answers(self, probabilities: Probabilities, choices: Sequence[Choice]) -> list[bytes]:
        """The JSON body that answers each photo.

        Args:
            probabilities: head -> float32 (N, classes).
            choices: N of them.
        """
        # Python's numbers are several times faster to look up and to write than numpy's.
        best = {head: probabilities[head].argmax(axis=1).tolist() for head in self._classes}
        confidence = {head: probabilities[head].max(axis=1).tolist() for head in self._classes}
        plain = [
            [texts[n] % share for n, share in zip(best[head], confidence[head], strict=True)]
            for head, texts in self._plain.items()
        ]
        answers = []
        for row, choice in enumerate(choices):
            if choice == _PLAIN:
                labels = [texts[row] for texts in plain]
            else:
                labels = [
                    self._label(
                        head, best[head][row], confidence[head][row], choice,
                        probabilities[head], row,
                    )
                    for head in self._classes
                ]  # fmt: skip
            answers.append(f'{{"model":{self._model},"labels":{{{",".join(labels)}}}}}'.encode())
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
        confident = confidence >= choice.min_confidence
        label = classes[best] if confident else "null"
        others: list[str] = []
        if choice.top_k > 1 or not confident:
            # Stable, so that equal probabilities keep the order of the classes, as argmax does.
            order = np.argsort(-probabilities[row], kind="stable")[confident : choice.top_k]
            others = [
                f'{{"label":{classes[n]},"confidence":{probabilities[row, n]:.4f}}}' for n in order
            ]
        return (
            f'"{head}":{{"label":{label},"confidence":{confidence:.4f},'
            f'"alternatives":[{",".join(others)}]}}'
        )


def parse_answer(answer: bytes) -> dict[str, Any]:
    """The fields of an answer: `model` and `labels`."""
    fields: dict[str, Any] = json.loads(answer)
    return fields


def merge_answers(answers: Sequence[bytes]) -> bytes:
    """One answer with the labels of several models, for a photo that several models classified.

    Raises:
        ValueError: two of them name the same head.
    """
    fields = [parse_answer(answer) for answer in answers]
    merged = {
        "model": join_identities([each["model"] for each in fields]),
        "labels": join_heads([each["labels"] for each in fields]),
    }
    return json.dumps(merged, ensure_ascii=False, separators=(",", ":")).encode()


def join_identities(models: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Names and versions of several models, each joined by "+"."""
    return {key: "+".join(model[key] for model in models) for key in ("name", "version")}


def join_heads(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping of the heads of several models.

    Raises:
        ValueError: two of them name the same head.
    """
    heads = {head: value for part in parts for head, value in part.items()}
    if len(heads) < sum(map(len, parts)):
        raise ValueError(
            "two classifiers name the same head; `classifiers` in the Serve config needs models "
            f"whose heads differ, they have {', '.join('/'.join(part) for part in parts)}"
        )
    return heads

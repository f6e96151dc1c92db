"""What several classifiers say of one photo, put together as one model would have said it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.messages import Answer, Trace


def merge_answers(parts: Sequence[Answer]) -> Answer:
    """The answer to one photo, of what each classifier answered.

    Returns:
        The labels of all, under the names and versions of all, joined by "+"; the first error if
        there is one, since half an answer would look like a whole one.
    """
    if len(parts) == 1:
        return parts[0]
    bodies = []
    for part in parts:
        if isinstance(part, Exception):
            return part
        bodies.append(json.loads(part))
    try:
        labels = _union([body["labels"] for body in bodies])
    except ValueError as error:
        return error
    model = _identity([body["model"] for body in bodies])
    answer = {"model": model, "labels": labels}
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


def merge_traces(parts: Sequence[Trace]) -> Trace:
    """What photos met that went several ways beside one another: of each stage, the longest."""
    if len(parts) == 1:
        return parts[0]
    stages_s: dict[str, float] = {}
    for part in parts:
        for stage, spent_s in part.stages_s.items():
            stages_s[stage] = max(spent_s, stages_s.get(stage, 0.0))
    models = dict.fromkeys(part.model for part in parts if part.model)
    return Trace(stages_s, max((part.batch for part in parts), default=0), "+".join(models))


def merge_models(models: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The description of the models in service, of what each classifier says of its own.

    Raises:
        ValueError: two of them name the same head.
    """
    if len(models) == 1:
        return models[0]
    same = ("engine", "precision")
    return {
        **_identity(models),
        **{key: "+".join(dict.fromkeys(model[key] for model in models)) for key in same},
        "image": models[0]["image"],  # a classifier that takes another size refuses its images
        "heads": _union([model["heads"] for model in models]),
        "metrics": {model["name"]: model["metrics"] for model in models},
    }


def _identity(models: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {key: "+".join(model[key] for model in models) for key in ("name", "version")}


def _union(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    union = {head: value for part in parts for head, value in part.items()}
    if len(union) < sum(map(len, parts)):
        raise ValueError(
            "two classifiers name the same head; `classifiers` in the Serve config needs models "
            f"whose heads differ, they have {', '.join('/'.join(part) for part in parts)}"
        )
    return union

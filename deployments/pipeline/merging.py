"""Merges what several classifiers say, for applications with a model per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.messages import Answer
from mlc_core.labels import join_heads, join_identities, merge_answers


def merge_outcomes(outcomes: Sequence[Answer]) -> Answer:
    """The answer to one photo, from what each classifier answered.

    Returns:
        The labels of all, under the names and versions of all, joined by "+". The first error if
        there is one, since half an answer would look like a whole one.
    """
    if len(outcomes) == 1:
        return outcomes[0]
    answers = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            return outcome
        answers.append(outcome)
    try:
        return merge_answers(answers)
    except ValueError as error:
        return error


def merge_descriptions(models: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The description of the models in service, from what each classifier says of its own.

    Raises:
        ValueError: two of them name the same head.
    """
    if len(models) == 1:
        return models[0]
    same = ("engine", "precision")
    return {
        **join_identities(models),
        **{key: "+".join(dict.fromkeys(model[key] for model in models)) for key in same},
        "image": models[0]["image"],  # a classifier that takes another size refuses its images
        "heads": join_heads([model["heads"] for model in models]),
        "embedding": models[0].get("embedding"),  # as in answers
        "thresholds": join_heads([model["thresholds"] for model in models]),
        # Each makes the labels of its own heads agree.
        "taxonomy": next((model["taxonomy"] for model in models if model["taxonomy"]), None),
        "profiles": {
            name: join_heads([model["profiles"][name] for model in models])
            for name in models[0]["profiles"]
            if all(name in model["profiles"] for model in models)
        },
        "metrics": {model["name"]: model["metrics"] for model in models},
        "refused_update": next((m["refused_update"] for m in models if m["refused_update"]), None),
    }

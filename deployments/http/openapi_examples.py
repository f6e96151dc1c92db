"""Examples in the HTTP contract: real answers of the shipped model, which a test asks for again."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from importlib import resources
from typing import Any, NamedTuple


class Example(NamedTuple):
    """What one request was answered.

    Attributes:
        request: what was sent, in words.
    """

    name: str
    path: str
    method: str
    status: str
    request: str
    answer: dict[str, Any]


def read_examples() -> list[Example]:
    """All examples, of every path that there may be."""
    text = resources.files(__package__).joinpath("openapi_examples.json").read_text("utf-8")
    return [Example(**each) for each in json.loads(text)]


def add_examples(paths: Mapping[str, dict[str, Any]], heads: Collection[str]) -> None:
    """Add its examples to each response of these paths.

    Args:
        heads: those of the model in service; an example shows no other.
    """
    for each in read_examples():
        operation = paths.get(each.path, {}).get(each.method, {})
        response = operation.get("responses", {}).get(each.status)
        if response is None:
            continue
        (media_type,) = response["content"].values()
        shown = {"summary": each.request, "value": _with_heads(each.answer, heads)}
        media_type.setdefault("examples", {})[each.name] = shown


def _with_heads(answer: Any, heads: Collection[str]) -> Any:
    if isinstance(answer, list):
        return [_with_heads(each, heads) for each in answer]
    if not isinstance(answer, dict):
        return answer
    return {
        name: [head for head in value if head in heads]
        if name == "corrected"
        else {head: label for head, label in value.items() if head in heads}
        if name in ("labels", "answered")
        else _with_heads(value, heads)
        for name, value in answer.items()
    }

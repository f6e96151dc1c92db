"""Parts of the HTTP contract that several of its pages use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deployments.http import problems
from mlc_core.labels import MAX_TOP_K

BINARY = {"type": "string", "format": "binary"}
PHOTO = BINARY | {"minLength": 1}
REQUEST_ID = {
    "X-Request-ID": {
        "description": "The id that the client sent, or a new one.",
        "schema": {"type": "string"},
    }
}


def object_schema(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
    }


def json_response(
    description: str, schema: str, media_type: str = "application/json"
) -> dict[str, Any]:
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "headers": REQUEST_ID, "content": content}


def problem_responses(*statuses: int) -> dict[str, Any]:
    return {
        str(status): json_response(
            ", ".join(name for code, name in problems.STATUSES.values() if code == status)
            or "internal-error",
            "Problem",
            problems.MEDIA_TYPE,
        )
        for status in statuses
    }


def parameter_references() -> list[dict[str, Any]]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in parameters()]


def parameters(profiles: Iterable[str] = ()) -> dict[str, Any]:
    """Name -> parameter of the query.

    Args:
        profiles: the names of those in service.
    """
    return {
        "top_k": {
            "name": "top_k",
            "in": "query",
            "description": "Classes a head names: the label and top_k - 1 alternatives.",
            "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": 1},
        },
        "min_confidence": {
            "name": "min_confidence",
            "in": "query",
            "description": "A head less confident than this answers null as its label.",
            "schema": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
        },
        "precision": {
            "name": "precision",
            "in": "query",
            "description": "A head whose labels of this confidence are not right so often answers "
            "null as its label, and so do all heads if the photo is blank, noise or unlike those "
            "that the model learned from; 0 asks for nothing. `thresholds` of /v1/model has the "
            "confidences that this takes. Between two of its precisions, the higher one counts; "
            "above the highest, every label is null. With a model that has no thresholds, the "
            "photo gets the problem precision-unknown.",
            "schema": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
        },
        "consistent": {
            "name": "consistent",
            "in": "query",
            "description": "true: master category, sub-category and category are the most probable "
            "path of the model's taxonomy. false: each head names its own most probable class, as "
            "with a model without a taxonomy.",
            "schema": {"type": "boolean", "default": True},
        },
        "embedding": {
            "name": "embedding",
            "in": "query",
            "description": "true: the result has the photo's embedding too, a vector of length 1. "
            "The dot product of two embeddings is the similarity of their photos; only those of "
            "one digest can be compared. With a model that has none, the photo gets the problem "
            "embedding-unknown.",
            "schema": {"type": "boolean", "default": False},
        },
        "profile": {
            "name": "profile",
            "in": "query",
            "description": "Whose words the labels have: the name of a profile, as /v1/model lists "
            "them; empty for the model's own classes. The default is that of the key, or empty. "
            "With a name that there is not, the photo gets the problem profile-unknown.",
            "schema": {"type": "string", "enum": ["", *profiles]},
        },
    }

"""The part of the HTTP contract about feedback."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deployments.http.openapi_parts import (
    PHOTO,
    json_response,
    object_schema,
    problem_responses,
)

_TEXT = {"type": "string"}


def feedback_paths(heads: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Path -> its operation."""
    labels = {
        "type": "object",
        "properties": dict.fromkeys(heads, _TEXT),
        "additionalProperties": False,
        "minProperties": 1,
        "description": "The right labels, in the model's own words. Send those that were right "
        "already, too: a photo trains the model when all of its heads are judged.",
    }
    by = {"type": "string", "minLength": 1, "maxLength": 200, "description": "Who says so."}
    request = _TEXT | {"description": "X-Request-ID of an answer of /v1/classify."}
    with_photo = object_schema({"labels": labels, "by": by}) | {
        "properties": {"labels": labels, "by": by, "request_id": request}
    }
    without = object_schema({"labels": labels, "by": by, "request_id": request})
    form = object_schema({"image": PHOTO, "feedback": with_photo})
    for schema in (with_photo, without, form):
        schema["additionalProperties"] = False
    return {
        "/v1/feedback": {
            "post": {
                "operationId": "giveFeedback",
                "summary": "The right labels of a photo, as a person sees it",
                "description": "It is on the disk when this answers. A request is known to the "
                "ingress that answered it, for an hour at most; with 404, send the photo.",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": without},
                        "multipart/form-data": {
                            "schema": form,
                            "encoding": {"feedback": {"contentType": "application/json"}},
                        },
                    },
                },
                "responses": {
                    "201": json_response("It is stored", "Feedback"),
                    **problem_responses(400, 403, 404, 408, 413, 415, 422, 500, 503, 504),
                },
            }
        }
    }


def feedback_schemas() -> dict[str, Any]:
    """Name -> schema of what it answers."""
    return {
        "Feedback": object_schema(
            {
                "photo": _TEXT | {"description": "SHA-256 of the photo."},
                "answered": {
                    "type": "object",
                    "additionalProperties": {"type": ["string", "null"]},
                    "description": "What the model in service answers.",
                },
                "corrected": {
                    "type": "array",
                    "items": _TEXT,
                    "description": "The heads whose answer the feedback corrects.",
                },
            }
        )
    }

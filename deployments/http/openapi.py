"""The HTTP contract as OpenAPI 3.1, with the limits that are in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deployments.http.form import MAX_OVERHEAD_BYTES
from deployments.http.open_inference import SERVER
from deployments.http.openapi_examples import add_examples
from deployments.http.openapi_feedback import feedback_paths, feedback_schemas
from deployments.http.openapi_parts import (
    BINARY,
    PHOTO,
    REQUEST_ID,
    json_response,
    object_schema,
    parameter_references,
    parameters,
    problem_responses,
)
from deployments.http.openapi_similar import similar_paths, similar_schemas
from deployments.http.openapi_v2 import error_responses, inference_paths, inference_schemas
from deployments.settings import Openness, Settings
from mlc_core.photo import FORMATS, MAX_DECODE_S

_SECURITY_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key from the operator."}
}


def contract(settings: Settings, model: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of /openapi.json.

    Args:
        model: the model in service, as /v1/model describes it.
    """
    limits, endpoints = settings.limits, settings.endpoints
    paths: list[tuple[Openness, str, dict[str, Any]]] = [
        ("key", "/v1/classify", {"post": _classify()}),
        ("key", "/v1/classify/batch", {"post": _classify_batch(limits.max_request_photos)}),
        (
            "key",
            "/v1/model",
            _get("describeModel", "The model in service: spec and accuracy", "Model", 503, 504),
        ),
        (endpoints.health, "/healthz", _get("isAlive", "This process is alive", "Health")),
        (endpoints.health, "/readyz", {"get": _readyz()}),
        (
            endpoints.contract,
            "/openapi.json",
            _get("getContract", "This contract, for the model in service", "Contract", 503, 504),
        ),
        (endpoints.metrics, "/metrics", {"get": _metrics()}),
        (endpoints.page, "/", {"get": _page()}),
        *inference_paths(limits, endpoints.health, model),
    ]
    if settings.catalog:
        paths += [("key", path, item) for path, item in similar_paths(limits).items()]
    if settings.feedback_path:
        paths += [("key", path, item) for path, item in feedback_paths(model["heads"]).items()]
    if settings.keys_file:
        for openness, path, item in paths:
            refusals = error_responses if path.startswith(SERVER) else problem_responses
            for method, operation in item.items():
                if openness == "key" and method != "parameters":
                    _needs_key(operation, refusals)
    shown = {path: item for openness, path, item in paths if openness != "closed"}
    add_examples(shown, model["heads"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Multi-label product photo classifier",
            "version": "1",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Names the colour, master category, sub-category and category of a "
            f"product photo. Formats: {', '.join(FORMATS)}; the bytes decide, not the header. "
            f"A photo has at most {limits.max_photo_bytes} bytes "
            f"and {limits.max_photo_pixels} pixels. Decoding takes at most {MAX_DECODE_S:g} s of "
            "a core, less if it has few bytes. The boundaries and headers of a form have at most "
            f"{MAX_OVERHEAD_BYTES} bytes.",
        },
        "paths": shown,
        "components": {
            "schemas": _schemas(list(model["heads"]))
            | inference_schemas(model)
            | (similar_schemas() if settings.catalog else {})
            | (feedback_schemas() if settings.feedback_path else {}),
            "parameters": parameters(model.get("profiles", {})),
            **({"securitySchemes": _SECURITY_SCHEMES} if settings.keys_file else {}),
        },
    }


def _needs_key(operation: dict[str, Any], responses: Callable[..., dict[str, Any]]) -> None:
    """Add what keys add: the scheme, 401, and 429 if the operation takes photos.

    Args:
        responses: describes those of some statuses.
    """
    operation["security"] = [{name: []} for name in _SECURITY_SCHEMES]
    limited = "requestBody" in operation or "403" in operation["responses"]
    refusals = responses(401, 429) if limited else responses(401)
    for status, header in (("401", "WWW-Authenticate"), ("429", "Retry-After")):
        if status in refusals:
            refusals[status]["headers"] = REQUEST_ID | {
                header: {"required": True, "schema": {"type": "string"}}
            }
    operation["responses"] |= refusals


def _page() -> dict[str, Any]:
    return {
        "operationId": "getPage",
        "summary": "A page to try it on",
        "responses": {"200": {"description": "HTML", "content": {"text/html": {}}}},
    }


def _classify() -> dict[str, Any]:
    form = {"type": "object", "properties": {"image": PHOTO}, "required": ["image"]}
    return {
        "operationId": "classify",
        "summary": "The labels of one photo",
        "parameters": parameter_references(),
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": PHOTO},
                "application/octet-stream": {"schema": PHOTO},
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": {
            "200": json_response("The labels", "Result"),
            **problem_responses(400, 408, 413, 415, 422, 500, 503, 504),
        },
    }


def _classify_batch(max_photos: int) -> dict[str, Any]:
    images = {"type": "array", "items": BINARY, "minItems": 1, "maxItems": max_photos}
    form = {"type": "object", "properties": {"images": images}, "required": ["images"]}
    others = [each for each in parameter_references() if not each["$ref"].endswith("/profile")]
    # A profile that there is not is a problem of each photo: the call as a whole is right.
    any_profile = parameters()["profile"] | {"schema": {"type": "string"}}
    return {
        "operationId": "classifyBatch",
        "summary": "The labels of many photos, in the order sent",
        "parameters": [*others, any_profile],
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": form}},
        },
        "responses": {
            "200": json_response("A result or a problem for each photo", "Results"),
            **problem_responses(400, 408, 413, 415, 500),
        },
    }


def _readyz() -> dict[str, Any]:
    return {
        "operationId": "isReady",
        "summary": "The model is loaded and the whole pipeline answers",
        "responses": {
            "200": json_response("Ready", "Health"),
            "503": json_response("Not ready", "Health"),
        },
    }


def _metrics() -> dict[str, Any]:
    return {
        "operationId": "getMetrics",
        "summary": "Metrics of the whole service, as Prometheus reads them",
        "responses": {
            "200": {
                "description": "Prometheus text",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            }
        },
    }


def _get(operation_id: str, summary: str, schema: str, *statuses: int) -> dict[str, Any]:
    """A path that takes GET alone."""
    responses = {"200": json_response(summary, schema), **problem_responses(*statuses)}
    return {"get": {"operationId": operation_id, "summary": summary, "responses": responses}}


def _schemas(heads: Sequence[str]) -> dict[str, Any]:
    text, confidence = {"type": "string"}, {"type": "number", "minimum": 0, "maximum": 1}
    label = object_schema(
        {
            "label": {"type": ["string", "null"]},
            "confidence": confidence,
            "alternatives": {
                "type": "array",
                "items": object_schema({"label": text, "confidence": confidence}),
            },
        }
    )
    result = object_schema(
        {
            "model": object_schema({"name": text, "version": text}),
            "labels": object_schema(
                {head: {"$ref": "#/components/schemas/Label"} for head in heads}
            ),
            "embedding": object_schema(
                {
                    "digest": text | {"description": "Of the network that embedded the photo."},
                    "vector": {"type": "array", "items": {"type": "number"}},
                }
            ),
        },
        required=["model", "labels"],
    )
    either = [{"$ref": f"#/components/schemas/{name}"} for name in ("Result", "Problem")]
    classes = {"type": "array", "items": text}
    pixels = {"type": "integer", "minimum": 1}
    return {
        "Label": label,
        "Result": result,
        "Results": object_schema({"results": {"type": "array", "items": {"anyOf": either}}}),
        "Problem": object_schema(
            {
                "type": {"type": "string", "format": "uri"},
                "title": text,
                "status": {"type": "integer"},
                "detail": text,
                "request_id": text | {"description": "Absent if no ingress could answer."},
            },
            required=["type", "title", "status", "detail"],
        ),
        "Model": object_schema(
            {
                "name": text,
                "version": text,
                "engine": text,
                "precision": text,
                "image": object_schema({"height_px": pixels, "width_px": pixels}),
                "heads": object_schema(dict.fromkeys(heads, classes)),
                "embedding": {
                    "description": "Of the network; null if it has none.",
                    "anyOf": [
                        object_schema({"dimensions": pixels, "digest": text}),
                        {"type": "null"},
                    ],
                },
                "thresholds": {
                    "type": "object",
                    "description": "Head -> precision -> the confidence from which on its labels "
                    "have it, null if none has. Empty if the model has no thresholds.",
                },
                "taxonomy": {
                    "description": "The paths that consistent labels may be; null if there are "
                    "none.",
                    "anyOf": [
                        object_schema(
                            {"heads": classes, "paths": {"type": "array", "items": classes}}
                        ),
                        {"type": "null"},
                    ],
                },
                "profiles": {
                    "type": "object",
                    "description": "Profile -> head -> the words that its labels have.",
                },
                "metrics": {"type": "object"},
                "refused_update": {
                    "type": ["string", "null"],
                    "description": "Why the model that was requested last is not in service.",
                },
            }
        ),
        "Health": object_schema({"status": text, "reason": text}, required=["status"]),
        "Contract": {"type": "object"},
    }

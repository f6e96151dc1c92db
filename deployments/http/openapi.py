"""The HTTP contract as OpenAPI 3.1, with the limits that are in force."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from deployments.http import problems
from deployments.http.form import MAX_OVERHEAD_BYTES
from deployments.settings import Openness, Settings
from mlc_core.labels import MAX_TOP_K
from mlc_core.photo import FORMATS, MAX_DECODE_S

_SECURITY_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "A key from the operator."}
}
_BINARY = {"type": "string", "format": "binary"}
_PHOTO = _BINARY | {"minLength": 1}
_REQUEST_ID = {
    "X-Request-ID": {
        "description": "The id that the client sent, or a new one.",
        "schema": {"type": "string"},
    }
}


def contract(settings: Settings, heads: Iterable[str]) -> dict[str, Any]:
    """The contents of /openapi.json.

    Args:
        heads: heads of the model in service.
    """
    limits, endpoints = settings.limits, settings.endpoints
    paths: list[tuple[Openness, str, dict[str, Any]]] = [
        ("key", "/v1/classify", {"post": _classify()}),
        ("key", "/v1/classify/batch", {"post": _classify_batch(limits.max_request_photos)}),
        (
            "key",
            "/v1/model",
            {"get": _get("The model in service: spec and accuracy", "Model", 503, 504)},
        ),
        (endpoints.health, "/healthz", {"get": _get("This process is alive", "Health")}),
        (endpoints.health, "/readyz", {"get": _readyz()}),
        (
            endpoints.contract,
            "/openapi.json",
            {"get": _get("This contract, for the model in service", "Contract", 503, 504)},
        ),
        (endpoints.metrics, "/metrics", {"get": _metrics()}),
        (endpoints.page, "/", {"get": _page()}),
    ]
    if settings.keys_file:
        for operation in (
            each for openness, _, item in paths if openness == "key" for each in item.values()
        ):
            _needs_key(operation)
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
        "paths": {path: item for openness, path, item in paths if openness != "closed"},
        "components": {
            "schemas": _schemas(list(heads)),
            "parameters": _parameters(),
            **({"securitySchemes": _SECURITY_SCHEMES} if settings.keys_file else {}),
        },
    }


def _needs_key(operation: dict[str, Any]) -> None:
    """Add what keys add: the scheme, 401, and 429 if the operation takes photos."""
    operation["security"] = [{name: []} for name in _SECURITY_SCHEMES]
    refusals = _problems(401, 429) if "requestBody" in operation else _problems(401)
    for status, header in (("401", "WWW-Authenticate"), ("429", "Retry-After")):
        if status in refusals:
            refusals[status]["headers"] = _REQUEST_ID | {
                header: {"required": True, "schema": {"type": "string"}}
            }
    operation["responses"] |= refusals


def _page() -> dict[str, Any]:
    return {
        "summary": "A page to try it on",
        "responses": {"200": {"description": "HTML", "content": {"text/html": {}}}},
    }


def _classify() -> dict[str, Any]:
    form = {"type": "object", "properties": {"image": _PHOTO}, "required": ["image"]}
    return {
        "operationId": "classify",
        "summary": "The labels of one photo",
        "parameters": _parameter_references(),
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": _PHOTO},
                "application/octet-stream": {"schema": _PHOTO},
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": {
            "200": _json("The labels", "Result"),
            **_problems(400, 408, 413, 415, 422, 500, 503, 504),
        },
    }


def _classify_batch(max_photos: int) -> dict[str, Any]:
    images = {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": max_photos}
    form = {"type": "object", "properties": {"images": images}, "required": ["images"]}
    return {
        "operationId": "classifyBatch",
        "summary": "The labels of many photos, in the order sent",
        "parameters": _parameter_references(),
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": form}},
        },
        "responses": {
            "200": _json("A result or a problem for each photo", "Results"),
            **_problems(400, 408, 413, 415, 500),
        },
    }


def _readyz() -> dict[str, Any]:
    return {
        "summary": "The model is loaded and the whole pipeline answers",
        "responses": {"200": _json("Ready", "Health"), "503": _json("Not ready", "Health")},
    }


def _metrics() -> dict[str, Any]:
    return {
        "summary": "Metrics of the whole service, as Prometheus reads them",
        "responses": {
            "200": {
                "description": "Prometheus text",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            }
        },
    }


def _get(summary: str, schema: str, *statuses: int) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": _json(summary, schema), **_problems(*statuses)},
    }


def _json(description: str, schema: str, media_type: str = "application/json") -> dict[str, Any]:
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": description, "headers": _REQUEST_ID, "content": content}


def _problems(*statuses: int) -> dict[str, Any]:
    return {
        str(status): _json(
            ", ".join(name for code, name in problems.STATUSES.values() if code == status)
            or "internal-error",
            "Problem",
            problems.MEDIA_TYPE,
        )
        for status in statuses
    }


def _parameter_references() -> list[dict[str, Any]]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in _parameters()]


def _parameters() -> dict[str, Any]:
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
    }


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
    }


def _schemas(heads: Sequence[str]) -> dict[str, Any]:
    text, confidence = {"type": "string"}, {"type": "number", "minimum": 0, "maximum": 1}
    label = _object(
        {
            "label": {"type": ["string", "null"]},
            "confidence": confidence,
            "alternatives": {
                "type": "array",
                "items": _object({"label": text, "confidence": confidence}),
            },
        }
    )
    result = _object(
        {
            "model": _object({"name": text, "version": text}),
            "labels": _object({head: {"$ref": "#/components/schemas/Label"} for head in heads}),
        }
    )
    either = [{"$ref": f"#/components/schemas/{name}"} for name in ("Result", "Problem")]
    classes = {"type": "array", "items": text}
    pixels = {"type": "integer", "minimum": 1}
    return {
        "Label": label,
        "Result": result,
        "Results": _object({"results": {"type": "array", "items": {"anyOf": either}}}),
        "Problem": _object(
            {
                "type": {"type": "string", "format": "uri"},
                "title": text,
                "status": {"type": "integer"},
                "detail": text,
                "request_id": text | {"description": "Absent if no ingress could answer."},
            },
            required=["type", "title", "status", "detail"],
        ),
        "Model": _object(
            {
                "name": text,
                "version": text,
                "engine": text,
                "precision": text,
                "image": _object({"height_px": pixels, "width_px": pixels}),
                "heads": _object(dict.fromkeys(heads, classes)),
                "thresholds": {
                    "type": "object",
                    "description": "Head -> precision -> the confidence from which on its labels "
                    "have it, null if none has. Empty if the model has no thresholds.",
                },
                "taxonomy": {
                    "description": "The paths that consistent labels may be; null if there are "
                    "none.",
                    "anyOf": [
                        _object({"heads": classes, "paths": {"type": "array", "items": classes}}),
                        {"type": "null"},
                    ],
                },
                "metrics": {"type": "object"},
                "refused_update": {
                    "type": ["string", "null"],
                    "description": "Why the model that was requested last is not in service.",
                },
            }
        ),
        "Health": _object({"status": text, "reason": text}, required=["status"]),
        "Contract": {"type": "object"},
    }

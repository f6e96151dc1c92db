"""The Open Inference Protocol (V2) in the HTTP contract.

A schema can't say that the data of a tensor are as many as its shape says. So it has tensors of one
photo or one pixel; the descriptions say what there may be beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.http.open_inference import INFER, LIVE, MODEL, READY, SERVER
from deployments.http.openapi_parts import json_response, object_schema
from deployments.http.tensors import BASE64, DATATYPES, IMAGES, PHOTOS
from deployments.settings import Limits, Openness
from mlc_core.spec import EMBEDDING

_TEXT: dict[str, Any] = {"type": "string"}
_INTEGERS = {"type": "array", "items": {"type": "integer"}}
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)$"
_OBJECTS = {"type": "array", "items": {"type": "object"}}
_REASONS = {
    400: "No request of the protocol, or of what the model lacks",
    401: "No key, or none that the service knows",
    404: "No such model or version is in service",
    408: "The body did not arrive in time",
    413: "Too many photos or bytes, compressed or decompressed",
    415: "A content coding that is not taken, or a photo of no format that is",
    422: "A photo that can't be decoded",
    429: "The key has used up its rate; with Retry-After",
    500: "An error of ours",
    503: "Not ready, or overloaded; with Retry-After then",
    504: "No answer within the deadline",
}


def inference_paths(
    limits: Limits, health: Openness, model: Mapping[str, Any]
) -> list[tuple[Openness, str, dict[str, Any]]]:
    """Who may ask, path and operations, for each path."""
    name = _parameter("model", model["name"])
    version = _parameter("version", model.get("version", ""))
    versioned = MODEL + "/versions/{version}"
    paths: list[tuple[Openness, str, dict[str, Any]]] = [
        (health, SERVER, {"get": _get("Name and extensions of this server", "InferenceServer")}),
        (health, LIVE, {"get": _get("This process is alive", "Live")}),
        (health, READY, {"get": _get("The whole pipeline answers", "Ready", 503)}),
    ]
    for path, parameters in ((MODEL, [name]), (versioned, [name, version])):
        operations = {
            "": {"get": _get("Inputs and outputs of the model", "InferenceModel", 404, 503, 504)},
            "/ready": {"get": _get("Whether the model answers", "Ready", 404, 503, 504)},
            "/config": {
                "get": _get("The model as Triton's clients read it", "ModelConfig", 404, 503, 504)
            },
            "/stats": {
                "get": _get("Calls that this ingress answered", "Statistics", 404, 503, 504)
            },
            INFER.removeprefix(MODEL): {"post": _infer(limits)},
        }
        paths += [
            ("key", path + end, {"parameters": parameters} | item)
            for end, item in operations.items()
        ]
    return paths


def inference_schemas(model: Mapping[str, Any]) -> dict[str, Any]:
    """The schemas that these paths refer to."""
    tensor = {"name": _TEXT, "datatype": _TEXT, "shape": _INTEGERS}
    flag = {"type": "boolean"}
    return {
        "InferenceError": object_schema({"error": _TEXT}),
        "Live": object_schema({"live": flag}),
        "Ready": object_schema(
            {"ready": flag, "name": _TEXT, "error": _TEXT}, required=["ready"]
        ),
        "InferenceServer": object_schema(
            {"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}}
        ),
        "InferenceModel": object_schema(
            {
                "name": _TEXT,
                "versions": {"type": "array", "items": _TEXT},
                "platform": _TEXT,
                "inputs": {"type": "array", "items": object_schema(tensor)},
                "outputs": {"type": "array", "items": object_schema(tensor)},
            }
        ),
        "ModelConfig": object_schema(
            {
                "name": _TEXT, "platform": _TEXT, "backend": _TEXT,
                "max_batch_size": {"type": "integer"}, "input": _OBJECTS, "output": _OBJECTS,
                "dynamic_batching": {"type": "object"},
            }
        ),
        "Statistics": object_schema({"model_stats": _OBJECTS}),
        "InferenceRequest": object_schema(
            {
                "id": {"type": ["string", "null"]},
                "inputs": {
                    "type": "array",
                    "items": {"oneOf": [_photos(), _images()]},
                    "minItems": 1,
                    "maxItems": 1,
                },
                "outputs": {
                    "type": ["array", "null"],
                    "description": "Those that are wanted; without them, each head.",
                    "items": {"oneOf": _outputs(model)},
                    "maxItems": len(model["heads"]) + bool(model.get("embedding")),
                },
                "parameters": _parameters({"binary_data_output": flag}),
            },
            required=["inputs"],
        ),
        "InferenceResponse": object_schema(
            {
                "id": _TEXT,
                "model_name": _TEXT,
                "model_version": _TEXT,
                "outputs": {"type": "array", "items": object_schema(tensor)},
            },
            required=["model_name", "model_version", "outputs"],
        ),
    }  # fmt: skip


def error_responses(*statuses: int) -> dict[str, Any]:
    """Errors as the protocol has them."""
    return {str(status): json_response(_REASONS[status], "InferenceError") for status in statuses}


def _parameter(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"enum": [value]}}


def _get(summary: str, schema: str, *statuses: int) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {"200": json_response(summary, schema), **error_responses(*statuses)},
    }


def _infer(limits: Limits) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/InferenceRequest"}
    response = json_response("The outputs, in the order of the request", "InferenceResponse")
    response["content"]["application/octet-stream"] = {
        "schema": {"type": "string", "format": "binary"}
    }
    return {
        "summary": "The probabilities of photos or images",
        "description": f"At most {limits.max_infer_photos} photos or images and "
        f"{limits.max_request_bytes} bytes. An error is that of the whole call, and names its "
        "photo, counted from 0. With the header Inference-Header-Content-Length, so many bytes are "
        "JSON, and binary tensors follow, as the protocol's extension has them. The body may be "
        "compressed with gzip or deflate, and so is the response if Accept-Encoding asks for it.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            "200": response,
            **error_responses(400, 404, 408, 413, 415, 422, 500, 503, 504),
        },
    }


def _photos() -> dict[str, Any]:
    return object_schema(
        {
            "name": {"const": PHOTOS},
            "datatype": {"const": DATATYPES[PHOTOS]},
            "shape": {
                "type": "array",
                "items": {"type": "integer", "const": 1},
                "minItems": 1,
                "maxItems": 2,
                "description": "[N] or [N, 1] for N photos, with N elements of data.",
            },
            "parameters": object_schema({"content_type": {"const": BASE64}}),
            "data": {
                "type": "array",
                "items": _TEXT | {"contentEncoding": BASE64, "pattern": _BASE64},
                "minItems": 1,
                "maxItems": 1,
            },
        }
    )


def _images() -> dict[str, Any]:
    level = {"type": "integer", "minimum": 0, "maximum": 255}
    return object_schema(
        {
            "name": {"const": IMAGES},
            "datatype": {"const": DATATYPES[IMAGES]},
            "shape": {
                "type": "array",
                "prefixItems": [{"type": "integer", "const": size} for size in (1, 1, 1, 3)],
                "minItems": 4,
                "maxItems": 4,
                "description": "[N, height, width, 3], RGB. An image is scaled as a photo is; one "
                "of the model's size stays as it is.",
            },
            "parameters": _parameters({}),
            "data": {"type": "array", "items": level, "minItems": 3, "maxItems": 3},
        },
        required=["name", "datatype", "shape", "data"],
    )


def _outputs(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    binary = {"binary_data": {"type": ["boolean", "null"]}}
    classification = {
        "type": "integer",
        "minimum": 0,
        "description": "The most probable classes, as BYTES <value>:<index>:<class>, instead of "
        "all probabilities as FP32.",
    }
    head = {
        "name": {"enum": list(model["heads"])},
        "parameters": _parameters(binary | {"classification": classification}),
    }
    embedding = {"name": {"const": EMBEDDING}, "parameters": _parameters(binary)}
    wanted = [head, embedding] if model.get("embedding") else [head]
    return [object_schema(each, required=["name"]) for each in wanted]


def _parameters(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": ["object", "null"], "properties": properties}

"""The part of the HTTP contract about similar products and the catalogue."""

from __future__ import annotations

from typing import Any

from deployments.http.openapi_parts import (
    BINARY,
    PHOTO,
    REQUEST_ID,
    json_response,
    object_schema,
    parameters,
    problem_responses,
)
from deployments.http.products import MAX_CHANGES
from deployments.http.query import MAX_FILTERS, MAX_K
from deployments.settings import Limits
from mlc_core.catalog.catalog import ID
from mlc_core.catalog.filters import NAME
from mlc_core.catalog.picture import MEDIA_TYPE

_TEXT = {"type": "string"}
_ID = {"type": "string", "pattern": f"^{ID}$"}
_VALUE = {"type": ["string", "number", "boolean"]}
_ATTRIBUTES = {
    "type": "object",
    "propertyNames": {"pattern": f"^{NAME}$"},
    "additionalProperties": {"type": ["string", "number", "boolean", "null"], "maxLength": 1000},
    "maxProperties": 64,
    "description": "What the shop filters by; null for no value.",
}
_SENT = {"type": "object", "properties": {"attributes": _ATTRIBUTES}, "required": ["attributes"]}


def similar_paths(limits: Limits) -> dict[str, dict[str, Any]]:
    """Path -> its operations."""
    by_id = [{"name": "id", "in": "path", "required": True, "schema": _ID}]
    return {
        "/v1/similar": {"post": _search()},
        "/v1/catalog": {
            "get": {
                "operationId": "describeCatalog",
                "summary": "The catalogue: number of products, time of the last write",
                "responses": {
                    "200": json_response("The catalogue", "Catalog"),
                    **problem_responses(500, 503, 504),
                },
            },
            "post": _change_many(limits),
        },
        "/v1/catalog/{id}": {
            "parameters": by_id,
            "get": {
                "operationId": "getProduct",
                "summary": "A product: its labels and attributes",
                "responses": {
                    "200": json_response("The product", "Product"),
                    **problem_responses(400, 404, 500, 503, 504),
                },
            },
            "put": _put(),
            "delete": {
                "operationId": "removeProduct",
                "summary": "Remove a product",
                "responses": {
                    "200": json_response("It is removed", "Outcome"),
                    **problem_responses(400, 403, 404, 500, 503, 504),
                },
            },
        },
        "/v1/pictures/{id}": {
            "parameters": by_id,
            "get": {
                "operationId": "getPicture",
                "summary": "A small picture of a product",
                "responses": {
                    "200": {
                        "description": "The picture",
                        "headers": REQUEST_ID,
                        "content": {MEDIA_TYPE: {"schema": BINARY}},
                    },
                    **problem_responses(400, 404, 500, 503, 504),
                },
            },
        },
    }


def similar_schemas() -> dict[str, Any]:
    """Name -> schema of what these operations answer."""
    labels = {"type": "object", "additionalProperties": _TEXT}
    attributes = {"type": "object", "additionalProperties": _VALUE}
    product = {"id": _TEXT, "labels": labels, "attributes": attributes}
    number = {"type": "number"}
    outcome = {"enum": ["added", "replaced", "changed", "removed"]}
    failed = {
        "allOf": [{"$ref": "#/components/schemas/Problem"}, object_schema({"id": _TEXT})],
    }
    return {
        "Product": object_schema(product),
        "Similar": object_schema(
            {
                "model": object_schema({"name": _TEXT, "version": _TEXT}),
                "labels": {
                    "type": "object",
                    "additionalProperties": {"$ref": "#/components/schemas/Label"},
                },
                "products": {
                    "type": "array",
                    "maxItems": MAX_K,
                    "items": object_schema(
                        product
                        | {
                            "similarity": number
                            | {"description": "Cosine of both embeddings; 1 is the same picture."}
                        }
                    ),
                },
            },
            required=["products"],
        ),
        "Outcome": object_schema({"id": _TEXT, "outcome": outcome}),
        "Outcomes": object_schema(
            {
                "results": {
                    "type": "array",
                    "items": {"anyOf": [{"$ref": "#/components/schemas/Outcome"}, failed]},
                }
            }
        ),
        "Catalog": object_schema(
            {
                "catalogues": {
                    "type": "array",
                    "description": "One for the embedding of each model.",
                    "items": object_schema(
                        {
                            "embedding": _TEXT | {"description": "Digest of the embedding."},
                            "products": {"type": "integer", "minimum": 0},
                            "written_at": {
                                "type": ["number", "null"],
                                "description": "Time of the last write, seconds since 1970.",
                            },
                        }
                    ),
                }
            }
        ),
    }


def _search() -> dict[str, Any]:
    texts = {"type": "array", "maxItems": MAX_FILTERS, "items": _TEXT}
    own = [
        ("id", "Search by the photo of this product; the body is empty then.", _ID),
        (
            "k",
            "At most so many products.",
            {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": 10},
        ),
        (
            "filter",
            "A condition that the products fulfil, as category=Tshirts, color!=Red, in_stock=true "
            "or price<50; several are joined by and. Labels and attributes have the relations = "
            "and !=, numbers also < <= > >=.",
            texts,
        ),
        (
            "labels",
            "true: the labels of the photo come too, as /v1/classify answers them; then its "
            "parameters may be sent as well.",
            {"type": "boolean", "default": False},
        ),
    ]
    form = {"type": "object", "properties": {"image": PHOTO}, "required": ["image"]}
    return {
        "operationId": "similar",
        "summary": "The products of the catalogue that look like a photo, the most similar first",
        "parameters": [
            *(
                {"name": name, "in": "query", "description": text, "schema": schema}
                for name, text, schema in own
            ),
            *(
                {"$ref": f"#/components/parameters/{name}"}
                for name in parameters()
                if name != "embedding"
            ),
        ],
        "requestBody": {
            "content": {
                "image/*": {"schema": PHOTO},
                "application/octet-stream": {"schema": PHOTO},
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": {
            "200": json_response("The products", "Similar"),
            **problem_responses(400, 404, 408, 413, 415, 422, 500, 503, 504),
        },
    }


def _put() -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {"image": PHOTO, "attributes": _ATTRIBUTES},
        "minProperties": 1,
    }
    return {
        "operationId": "putProduct",
        "summary": "Add or replace a product, or change its attributes",
        "description": "What is not sent stays as it is: a photo alone leaves the attributes, "
        "attributes alone leave the photo. It is on the disk when this answers.",
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": form,
                    "encoding": {"attributes": {"contentType": "application/json"}},
                },
                "application/json": {"schema": _SENT},
                "image/*": {"schema": PHOTO},
                "application/octet-stream": {"schema": PHOTO},
            },
        },
        "responses": {
            "200": json_response("What was done", "Outcome"),
            **problem_responses(400, 403, 404, 408, 413, 415, 422, 500, 503, 504),
        },
    }


def _change_many(limits: Limits) -> dict[str, Any]:
    change = {
        "type": "object",
        "properties": {
            "id": _ID,
            "image": _TEXT | {"description": "The form's field that has the photo."},
            "attributes": _ATTRIBUTES,
            "remove": {"type": "boolean", "default": False},
        },
        "required": ["id"],
        "additionalProperties": False,
    }
    changes = {"type": "array", "items": change, "minItems": 1, "maxItems": MAX_CHANGES}
    form = {
        "type": "object",
        "properties": {"changes": changes},
        "required": ["changes"],
        "additionalProperties": BINARY,
        "description": f"The changes, and at most {limits.max_request_photos} photos in fields "
        "that they name.",
    }
    return {
        "operationId": "changeProducts",
        "summary": "Add, replace, change and remove many products",
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": form,
                    "encoding": {"changes": {"contentType": "application/json"}},
                },
                "application/json": {"schema": object_schema({"changes": changes})},
            },
        },
        "responses": {
            "200": json_response("An outcome or a problem for each change", "Outcomes"),
            **problem_responses(400, 403, 408, 413, 415, 500, 503, 504),
        },
    }

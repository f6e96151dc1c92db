"""Errors to HTTP, as RFC 9457 problem details: the one place where a status is chosen."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from deployments import errors
from deployments.metrics import PROBLEMS, record
from deployments.request_log import entry_of
from mlc_core import errors as mlc_errors

logger = logging.getLogger("ray.serve")

MEDIA_TYPE = "application/problem+json"

CLIENT_LEFT = (499, "client-left")  # nobody reads this but metrics and logs
# error -> status, and the name of the problem, which clients may rely on.
STATUSES: dict[type[Exception], tuple[int, str]] = {
    errors.MalformedRequest: (400, "malformed-request"),
    ClientDisconnect: CLIENT_LEFT,  # while it uploaded
    errors.ClientLeft: CLIENT_LEFT,
    errors.UploadTooSlow: (408, "upload-too-slow"),
    errors.RequestTooLarge: (413, "request-too-large"),
    errors.UnsupportedMediaType: (415, "unsupported-media-type"),
    mlc_errors.UnsupportedFormat: (415, "unsupported-format"),
    mlc_errors.UndecodablePhoto: (422, "undecodable-photo"),
    mlc_errors.PhotoTooLarge: (422, "photo-too-large"),
    errors.Overloaded: (503, "overloaded"),
    errors.ShuttingDown: (503, "shutting-down"),
    errors.Unavailable: (503, "unavailable"),
    errors.DeadlinePassed: (504, "deadline-passed"),
}


def problem(error: Exception, request_id: str) -> dict[str, Any]:
    """The problem details of an error; of one that nobody foresaw, nothing but the id."""
    status, name, detail = 500, "internal-error", "an error of ours; its log has this request_id"
    if type(error) in STATUSES:
        (status, name), detail = STATUSES[type(error)], str(error)
    elif isinstance(error, HTTPException):
        status, detail = error.status_code, error.detail
        name = HTTPStatus(status).phrase.lower().replace(" ", "-")
    else:
        logger.error("request %s failed", request_id, exc_info=error)
    record(PROBLEMS, 1, problem=name)
    return {
        "type": f"urn:problem-type:mlc:{name}",
        "title": name.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }


def answer(error: Exception, request: Request, retry_after_s: int) -> Response:
    """The HTTP answer to an error."""
    entry = entry_of(request.scope)
    details = problem(error, entry.request_id)
    entry.problem, status = details["type"].rpartition(":")[2], details["status"]
    headers = dict(getattr(error, "headers", None) or {})
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(retry_after_s)
    if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        headers["Connection"] = "close"  # the rest of the body is not read
    return Response(json.dumps(details), status, headers, MEDIA_TYPE)

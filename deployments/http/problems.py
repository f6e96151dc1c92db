"""Turns errors into RFC 9457 problem details: the one place that chooses an error's status."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException

from deployments import errors
from deployments.http.response import RawResponse
from deployments.telemetry.catalogue import PROBLEMS
from deployments.telemetry.recorder import Recorder
from deployments.telemetry.request_log import Entry
from mlc_core import errors as mlc_errors

logger = logging.getLogger("ray.serve")

MEDIA_TYPE = "application/problem+json"
_MEDIA_TYPE = MEDIA_TYPE.encode()
_UNAVAILABLE = int(HTTPStatus.SERVICE_UNAVAILABLE)
# The rest of the body is not read.
_BODY_UNREAD = (int(HTTPStatus.REQUEST_TIMEOUT), int(HTTPStatus.REQUEST_ENTITY_TOO_LARGE))

CLIENT_LEFT = (499, "client-left")  # only metrics and logs see it
# error -> status, and the name of the problem, which clients may rely on.
STATUSES: dict[type[Exception], tuple[int, str]] = {
    errors.MalformedRequest: (400, "malformed-request"),
    mlc_errors.PrecisionUnknown: (400, "precision-unknown"),
    mlc_errors.EmbeddingUnknown: (400, "embedding-unknown"),
    mlc_errors.ProfileUnknown: (400, "profile-unknown"),
    errors.KeyRefused: (401, "key-refused"),
    errors.WriteRefused: (403, "write-refused"),
    errors.ModelUnknown: (404, "model-unknown"),
    errors.ProductUnknown: (404, "product-unknown"),
    errors.RequestUnknown: (404, "request-unknown"),
    errors.ClientLeft: CLIENT_LEFT,
    errors.UploadTooSlow: (408, "upload-too-slow"),
    errors.RequestTooLarge: (413, "request-too-large"),
    errors.UnsupportedMediaType: (415, "unsupported-media-type"),
    mlc_errors.UnsupportedFormat: (415, "unsupported-format"),
    mlc_errors.UndecodablePhoto: (422, "undecodable-photo"),
    mlc_errors.PhotoTooLarge: (422, "photo-too-large"),
    mlc_errors.PhotoTooCostly: (422, "photo-too-costly"),
    errors.HarmfulPhoto: (422, "harmful-photo"),
    errors.RateExceeded: (429, "rate-exceeded"),
    errors.Overloaded: (503, "overloaded"),
    errors.Unavailable: (503, "unavailable"),
    errors.CatalogUnready: (503, "catalogue-unready"),
    errors.FeedbackUnwritable: (503, "feedback-unwritable"),
    errors.DeadlinePassed: (504, "deadline-passed"),
}


class Problems:
    """Writes problem details, and counts them."""

    def __init__(self, retry_after_s: int, recorder: Recorder) -> None:
        self._retry_after, self._recorder = b"%d" % retry_after_s, recorder

    def details(self, error: Exception, request_id: str) -> dict[str, Any]:
        """Count an error and return its problem details. An unforeseen error shows only the id."""
        status, name, detail = (
            500,
            "internal-error",
            "an error of ours; its log has this request_id",
        )
        if type(error) in STATUSES:
            (status, name), detail = STATUSES[type(error)], str(error)
        elif isinstance(error, HTTPException):
            status, detail = error.status_code, error.detail
            name = HTTPStatus(status).phrase.lower().replace(" ", "-")
        else:
            logger.error("request %s failed", request_id, exc_info=error)
        self._recorder.record(PROBLEMS, 1, problem=name)
        return describe(status, name, detail, request_id)

    def response(self, error: Exception, entry: Entry) -> RawResponse:
        """The HTTP response to an error. Notes status and problem in the request's entry."""
        details = self.details(error, entry.request_id)
        entry.problem = details["type"].rpartition(":")[2]
        entry.status = details["status"]
        response = self._raw(details)
        for name, value in (getattr(error, "headers", None) or {}).items():
            response.headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
        return response

    def refusal(self, error: errors.Overloaded, request_id: bytes) -> RawResponse:
        """The HTTP response to a request that is refused before it is read, and has no entry."""
        return self._raw(self.details(error, request_id.decode("latin-1")))

    def _raw(self, details: dict[str, Any]) -> RawResponse:
        status, body = details["status"], msgspec.json.encode(details)
        headers = [(b"content-type", _MEDIA_TYPE), (b"content-length", b"%d" % len(body))]
        if status == _UNAVAILABLE:
            headers.append((b"retry-after", self._retry_after))
        if status in _BODY_UNREAD:
            headers.append((b"connection", b"close"))
        return RawResponse(status, headers, body)

    def refused_by_haproxy(self, requests: int) -> None:
        """Count refusals that HAProxy has responded to."""
        self._recorder.record(PROBLEMS, requests, problem=STATUSES[errors.Overloaded][1])

    def client_left(self, entry: Entry) -> None:
        """Note and count a client that left; there is no one to respond to."""
        entry.status, entry.problem = CLIENT_LEFT
        self._recorder.record(PROBLEMS, 1, problem=entry.problem)


def describe(status: int, name: str, detail: str, request_id: str) -> dict[str, Any]:
    """Problem details."""
    return {
        "type": f"urn:problem-type:mlc:{name}",
        "title": name.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }

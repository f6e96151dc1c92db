"""The errors that the service answers instead of labels, and where each is decided.

    HTTP ── ingress ── group ── preprocessor ── images ── classifier
              │                     │                        │
              ├─ RequestError       ├─ PhotoFault            ├─ Overloaded
              ├─ Overloaded         │  (mlc_core.errors)     ├─ DeadlinePassed
              ├─ DeadlinePassed     ├─ DeadlinePassed        └─ WrongImageSize: the preprocessor
              └─ Unavailable        └─ Unavailable              decodes again, clients never see it

Errors of photos cross from one deployment to another as values, one for each photo. A call raises
Unavailable if no replica answers. `http.problems` is the one place that turns errors into HTTP.
Each error takes one argument: it crosses as its name and a text.
"""

from __future__ import annotations

import math

from mlc_core.errors import PhotoFault
from mlc_core.spec import ImageSize

_QUOTED_CHARACTERS = 40


class RequestError(Exception):
    """The HTTP request itself is wrong; `http.problems` names the status of each subclass."""


class MalformedRequest(RequestError):
    """A parameter, a form or a body that can't be parsed."""


class RequestTooLarge(RequestError):
    """More bytes or photos than a request may carry."""


class UnsupportedMediaType(RequestError):
    """A batch request is no multipart/form-data, or a body has an unknown content coding."""


class ClientLeft(RequestError):
    """The client closed its connection before its answer was ready."""


class UploadTooSlow(RequestError):
    """The body did not arrive within the upload timeout."""


class KeyRefused(RequestError):
    """The service asks for keys, and the request has no valid one."""

    headers = {"WWW-Authenticate": 'Bearer realm="mlc"'}  # noqa: RUF012  (never changed)


class RateExceeded(RequestError):
    """The client has sent more photos than the rate of its key allows."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self._retry_after_s = max(1, math.ceil(wait_s))
        self.headers = {"Retry-After": str(self._retry_after_s)}

    def __str__(self) -> str:
        return f"over the rate of this key; try again in {self._retry_after_s} s"


class WriteRefused(RequestError):
    """The key may not write: change the catalogue, or give feedback. Or there are no keys."""


class RequestUnknown(RequestError):
    """Feedback names a request whose photo the ingress does not have."""


class ModelUnknown(RequestError):
    """No model of that name and version is in service."""


class ProductUnknown(RequestError):
    """The catalogue has no product of that id."""


class HarmfulPhoto(PhotoFault):
    """The photo takes down the process that decodes it; see `pipeline.quarantine`."""


class ServiceError(Exception):
    """The service, not the request, is the cause; the same request may succeed later."""


class Overloaded(ServiceError):
    """A queue is full, or the wait in it would be too long."""


class DeadlinePassed(ServiceError):
    """No answer within the deadline of a request."""


class Unavailable(ServiceError):
    """No preprocessor or no classifier answers."""


class CatalogUnready(ServiceError):
    """The catalogue has no products that the model in service has embedded."""


class FeedbackUnwritable(ServiceError):
    """Feedback can't be stored."""


class WrongImageSize(ServiceError):
    """The images have another size than the model in service takes."""

    def __init__(self, wanted: ImageSize) -> None:
        super().__init__(wanted)
        self.wanted = wanted


def quote(text: str) -> str:
    """A client's own text, short enough to be part of an error."""
    return repr(text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}…")

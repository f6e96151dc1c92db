"""What the service answers instead of labels, and where on a photo's way that is decided.

    HTTP ── ingress ── group ── preprocessor ── images ── classifier
              │                     │                        │
              ├─ RequestError       ├─ PhotoFault            ├─ DeadlinePassed
              ├─ Overloaded         │  (mlc_core.errors)     └─ WrongImageSize: the preprocessor
              ├─ DeadlinePassed     └─ DeadlinePassed           decodes again, clients never see it
              ├─ ShuttingDown
              └─ Unavailable: no replica behind the ingress answers

Errors cross from one deployment to another as values, one for each photo. `http.problems` is the
one place that turns them into HTTP. Each takes one argument, so that it can be pickled.
"""

from __future__ import annotations

from mlc_core.spec import ImageSize


class RequestError(Exception):
    """The HTTP request itself is wrong; `http.problems` names the status of each subclass."""


class MalformedRequest(RequestError):
    """A parameter, a form or a body that can't be parsed."""


class RequestTooLarge(RequestError):
    """More bytes or photos than a request may carry."""


class UnsupportedMediaType(RequestError):
    """The declared type is not an image."""


class ClientLeft(RequestError):
    """The client closed its connection before its answer was ready."""


class UploadTooSlow(RequestError):
    """The body did not arrive within the upload timeout."""


class ServiceError(Exception):
    """The service, not the request, is the cause; the same request may succeed later."""


class Overloaded(ServiceError):
    """A queue is full."""


class DeadlinePassed(ServiceError):
    """No answer within the deadline of a request."""


class ShuttingDown(ServiceError):
    """This replica takes no more work."""


class Unavailable(ServiceError):
    """No replica answers behind the ingress."""


class WrongImageSize(ServiceError):
    """The images are of another size than the model in service takes."""

    def __init__(self, wanted: ImageSize) -> None:
        super().__init__(wanted)
        self.wanted = wanted

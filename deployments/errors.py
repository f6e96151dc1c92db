"""What the service can answer instead of labels, and where on a photo's way it is decided.

    HTTP ── ingress ── group ── preprocessor ── images ── classifier
              │                     │                        │
              ├─ RequestError       ├─ PhotoFault            ├─ DeadlinePassed
              ├─ Overloaded         │  (mlc_core.errors)     └─ WrongImageSize: never leaves the
              ├─ DeadlinePassed     └─ DeadlinePassed           preprocessor, which decodes again
              ├─ ShuttingDown
              └─ Unavailable: no replica behind the ingress answers

Errors cross from one deployment to another as values, one for each photo; `problems` turns
them into HTTP, and nothing else does. Each takes one argument, so that it can be pickled.
"""

from __future__ import annotations

from mlc_core.spec import ImageSize


class RequestError(Exception):
    """The HTTP request itself is wrong; `problems` names the status of each subclass."""


class MalformedRequest(RequestError):
    """A parameter, a form or a body that can't be understood."""


class RequestTooLarge(RequestError):
    """More bytes or photos than a request may carry."""


class UnsupportedMediaType(RequestError):
    """The declared type is of no image."""


class ClientLeft(RequestError):
    """The client hung up before a batch took its photo; nobody will read the answer."""


class UploadTooSlow(RequestError):
    """The body did not arrive in the time it is given."""


class ServiceError(Exception):
    """The service, not the request, is the cause; the same request may succeed later."""


class Overloaded(ServiceError):
    """More photos wait than may."""


class DeadlinePassed(ServiceError):
    """No answer within the time that a request is given."""


class ShuttingDown(ServiceError):
    """This replica takes no more work."""


class Unavailable(ServiceError):
    """No replica answers behind the ingress."""


class WrongImageSize(ServiceError):
    """The images are of another size than the model in service takes."""

    def __init__(self, wanted: ImageSize) -> None:
        super().__init__(wanted)
        self.wanted = wanted

"""Reads photos from request bodies, within limits. It decodes no photo."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope

from deployments.errors import (
    ClientLeft,
    MalformedRequest,
    RequestTooLarge,
    UnsupportedMediaType,
    UploadTooSlow,
    quote,
)
from deployments.http import form
from deployments.http.haproxy import REFUSED
from deployments.settings import Limits

FORM = "multipart/form-data"
FORM_OVERHEAD_BYTES = 64 * 2**10  # boundaries, headers and other fields beside one photo


class Upload:
    """The body of a request that arrives.

    Args:
        timeout_s: seconds that it may take.

    Attributes:
        declared_bytes: its length as the client declares it; 0 if it does not.
        content_type: the header as the client sends it; empty if it does not.
        media_type: the type in that header, lower case.
        refused_before: requests that HAProxy refused since it last passed one on.
    """

    def __init__(self, scope: Scope, receive: Receive, timeout_s: float) -> None:
        self._receive, self._timeout_s = receive, timeout_s
        self.declared_bytes, self.content_type, self.media_type = 0, b"", ""
        self.refused_before = 0
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                self.declared_bytes = int(value)
            elif name == b"content-type":
                self.content_type = value
                self.media_type = value.decode("latin-1").partition(";")[0].strip().lower()
            elif name == REFUSED and value.isdigit() and len(value) < 10:
                self.refused_before = int(value)

    async def read(self, limit_bytes: int) -> bytes:
        """All of it. It is refused as soon as it is over the limit.

        Raises:
            RequestTooLarge: it is over the limit.
            UploadTooSlow: it takes longer than the timeout.
            ClientLeft: the client closes its connection before the end.
        """
        if self.declared_bytes > limit_bytes:
            raise too_large(limit_bytes)
        if self._is_complete():
            return await self._read(limit_bytes)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._read(limit_bytes)
        except TimeoutError as error:
            text = f"the body did not arrive within {self._timeout_s:g} s"
            raise UploadTooSlow(text) from error

    def _is_complete(self) -> bool:
        """Whether uvicorn has all of it. A timeout costs more than reading a small photo does."""
        cycle = getattr(self._receive, "__self__", None)  # uvicorn's object for this request
        return getattr(cycle, "more_body", True) is False

    async def _read(self, limit_bytes: int) -> bytes:
        parts, size_bytes, more = [], 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft("the client left during the upload")
            part = message.get("body", b"")
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > limit_bytes:
                raise too_large(limit_bytes)
            more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def one_photo(upload: Upload, limits: Limits) -> bytes:
    """The photo of a request: its raw body, or the multipart field `image`.

    A raw body may have any declared type, since many clients declare what their library chooses.
    The preprocessor decides by the bytes.

    Raises:
        RequestError: the body has no photo or several, is over a limit, or arrives too slowly.
    """
    if upload.media_type == FORM:
        body = await upload.read(limits.max_photo_bytes + FORM_OVERHEAD_BYTES)
        photo, *more = list(filter(None, _photos(upload, body, "image"))) or [b""]
        if more:
            raise RequestTooLarge(
                "send one photo in this call; "
                "POST /v1/classify/batch takes many, in fields 'images'"
            )
    else:
        photo = await upload.read(limits.max_photo_bytes)
    if not photo:
        raise MalformedRequest("there is no photo in the request; send one as its body")
    if len(photo) > limits.max_photo_bytes:
        raise too_large(limits.max_photo_bytes)
    return photo


async def many_photos(upload: Upload, limits: Limits) -> list[bytes | Exception]:
    """The photos in the multipart fields `images`, in order.

    An empty file, or one over the limit, is an exception in the list.

    Raises:
        RequestError: the body is no form, has no photo, is over a limit, or arrives too slowly.
    """
    if upload.media_type != FORM:
        raise UnsupportedMediaType(
            f"the body is declared as {quote(upload.media_type or 'nothing')}; "
            "send multipart/form-data with one field 'images' for each photo"
        )
    body = await upload.read(limits.max_request_bytes)
    sent = _photos(upload, body, "images")
    if len(sent) > limits.max_request_photos:
        raise RequestTooLarge(f"send at most {limits.max_request_photos} photos in this call")
    photos: list[bytes | Exception] = []
    for photo in sent:
        if not photo:
            photos.append(MalformedRequest("the file is empty"))
        elif len(photo) > limits.max_photo_bytes:
            photos.append(too_large(limits.max_photo_bytes))
        else:
            photos.append(photo)
    return photos


def fields_of(upload: Upload, body: bytes) -> dict[str, bytes]:
    """The content of each field of a form.

    Raises:
        MalformedRequest: it is no form, or has a field twice.
    """
    fields: dict[str, bytes] = {}
    for part in form.parts(body, upload.content_type):
        if part.name in fields:
            raise MalformedRequest(f"the form has the field {quote(part.name)} twice; send it once")
        fields[part.name] = part.content()
    return fields


def too_large(limit_bytes: int) -> RequestTooLarge:
    """What a body or a photo over a limit gets."""
    return RequestTooLarge(f"more than {limit_bytes} bytes; send a smaller version")


def _photos(upload: Upload, body: bytes, field: str) -> list[bytes]:
    """The photos in one field of a form, at least one; empty files are among them.

    A photo may come without a file name, since RFC 7578 asks for none. Browsers send an empty part
    without a name for a file input that was left empty; it is no photo.
    """
    photos: list[bytes] = []
    others: list[str] = []
    for part in form.parts(body, upload.content_type):
        if part.name != field:
            others.append(part.name)
            continue
        content = part.content()
        if part.file_name is None and content and _is_text(content):
            raise MalformedRequest(
                f"the form has text in the field {field!r}; {_send_a_file(field)}"
            )
        if content or part.file_name:
            photos.append(content)
    if not photos:
        there = f", only {', '.join(map(quote, others[:5]))}" if others else ""
        raise MalformedRequest(
            f"the form has nothing in the field {field!r}{there}; {_send_a_file(field)}"
        )
    return photos


def _is_text(content: bytes) -> bool:
    """Whether it is text, as when a client sends a photo's name instead of the photo."""
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _send_a_file(field: str) -> str:
    return f"send a file (with curl: -F {field}=@photo.jpg)"

"""Reads photos from request bodies, within limits. It decodes no photo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from deployments.errors import (
    MalformedRequest,
    RequestTooLarge,
    UnsupportedMediaType,
    UploadTooSlow,
)
from deployments.settings import Limits

_MULTIPART_OVERHEAD_BYTES = 64 * 2**10  # boundaries and headers around one photo


async def one_photo(request: Request, limits: Limits, timeout_s: float) -> bytes:
    """The photo of a request: its raw body, or the multipart field `image`.

    A raw body may have any declared type, since many clients declare what their library chooses.
    The preprocessor decides by the bytes.

    Raises:
        RequestError: the body has no photo or several, is over a limit, or arrives too slowly.
    """
    if _media_type(request) == "multipart/form-data":
        body = await _read(request, limits.max_photo_bytes + _MULTIPART_OVERHEAD_BYTES, timeout_s)
        (photo,) = await _files(request, body, "image", most=1)
    else:
        photo = await _read(request, limits.max_photo_bytes, timeout_s)
    if not photo:
        raise MalformedRequest("there is no photo in the request; send one as its body")
    if len(photo) > limits.max_photo_bytes:
        raise _too_large(limits.max_photo_bytes)
    return photo


async def many_photos(
    request: Request, limits: Limits, timeout_s: float
) -> list[bytes | Exception]:
    """The photos in the multipart fields `images`, in order.

    An empty file, or one over the limit, is an exception in the list.

    Raises:
        RequestError: the body is no form, has no photo, is over a limit, or arrives too slowly.
    """
    declared = _media_type(request)
    if declared != "multipart/form-data":
        raise UnsupportedMediaType(
            f"the body is declared as {declared or 'nothing'!r}; "
            "send multipart/form-data with one field 'images' for each photo"
        )
    body = await _read(request, limits.max_request_bytes, timeout_s)
    photos: list[bytes | Exception] = []
    for photo in await _files(request, body, "images", most=limits.max_request_photos):
        if not photo:
            photos.append(MalformedRequest("the file is empty"))
        elif len(photo) > limits.max_photo_bytes:
            photos.append(_too_large(limits.max_photo_bytes))
        else:
            photos.append(photo)
    return photos


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _too_large(limit_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"more than {limit_bytes} bytes; send a smaller version")


async def _read(request: Request, limit_bytes: int, timeout_s: float) -> bytes:
    """Read the body. Refuse it as soon as it is over the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)
    parts, size_bytes = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.stream():
                size_bytes += len(part)
                if size_bytes > limit_bytes:
                    raise _too_large(limit_bytes)
                parts.append(part)
    except TimeoutError as error:
        raise UploadTooSlow(f"the body did not arrive within {timeout_s:g} s") from error
    return b"".join(parts)


class _InMemory(MultiPartParser):
    """Keeps files in memory, where the body already is."""

    spool_max_size = 2**40


async def _files(request: Request, body: bytes, field: str, most: int) -> list[bytes]:
    """The files of one field of a multipart form, 1 to `most` of them."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemory(request.headers, stream(), max_files=most)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            text = f"send at most {most} photos in this call"
            if most == 1:
                text = "send one photo in this call; "
                text += "POST /v1/classify/batch takes many, in fields 'images'"
            raise RequestTooLarge(text) from error
        raise MalformedRequest(f"the multipart form can't be read: {error.message}") from error
    except (KeyError, UnicodeDecodeError) as error:
        raise MalformedRequest(f"the multipart form can't be read: {error}") from error
    try:
        values = form.getlist(field)
        files = [await value.read() for value in values if isinstance(value, UploadFile)]
    finally:
        await form.close()
    if not files or len(files) < len(values):
        raise MalformedRequest(
            f"the form has {'text' if values else 'nothing'} in the field {field!r}; "
            f"send a file (with curl: -F {field}=@photo.jpg)"
        )
    return files

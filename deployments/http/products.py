"""Reads changes of the catalogue from request bodies, within limits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from deployments.errors import (
    MalformedRequest,
    RequestTooLarge,
    UnsupportedMediaType,
    quote,
)
from deployments.http.bodies import (
    FORM,
    FORM_OVERHEAD_BYTES,
    Upload,
    fields_of,
    one_photo,
    too_large,
)
from deployments.settings import Limits
from mlc_core.catalog.catalog import ID
from mlc_core.catalog.filters import NAME, Value

MAX_CHANGES = 1000  # of one request
MAX_CHANGES_BYTES = 2**20  # of the JSON that describes them
_JSON = "application/json"

_Id = Annotated[str, msgspec.Meta(pattern=f"^{ID}$")]
_Name = Annotated[str, msgspec.Meta(pattern=f"^{NAME}$")]
_Text = Annotated[str, msgspec.Meta(max_length=1000)]
# A value of null says that the product has none.
_Attributes = Annotated[dict[_Name, _Text | float | bool | None], msgspec.Meta(max_length=64)]


class _Product(msgspec.Struct, forbid_unknown_fields=True):
    attributes: _Attributes


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    id: _Id
    image: str | None = None
    attributes: _Attributes | None = None
    remove: bool = False


_List = Annotated[list[_Change], msgspec.Meta(min_length=1, max_length=MAX_CHANGES)]


class _Changes(msgspec.Struct, forbid_unknown_fields=True):
    changes: _List


class Write(NamedTuple):
    """A change of a product, as a client sends it.

    Attributes:
        photo: None leaves the photo as it is.
        attributes: None leaves them as they are.
        removes: whether the product leaves the catalogue.
    """

    id: str
    photo: bytes | None = None
    attributes: Mapping[str, Value] | None = None
    removes: bool = False


async def one_product(name: str, upload: Upload, limits: Limits) -> Write:
    """A product as one request sends it: its photo, its attributes, or both.

    A form has both, in the fields `image` and `attributes`. JSON has `attributes` alone, and any
    other body is the photo alone.

    Raises:
        RequestError: the id or the body is wrong, over a limit, or arrives too slowly.
    """
    product_id(name)
    if upload.media_type == _JSON:
        sent = _parse(await upload.read(MAX_CHANGES_BYTES), _Product)
        return Write(name, attributes=_present(sent.attributes))
    if upload.media_type != FORM:
        return Write(name, await one_photo(upload, limits))
    body = await upload.read(limits.max_photo_bytes + FORM_OVERHEAD_BYTES)
    fields = fields_of(upload, body)
    if strange := fields.keys() - {"image", "attributes"}:
        raise MalformedRequest(
            f"the form has the field {quote(min(strange))}; send image, attributes or both"
        )
    photo, attributes = fields.get("image"), fields.get("attributes")
    if not photo and attributes is None:
        raise MalformedRequest("the form has neither an image nor attributes; send one")
    if photo and len(photo) > limits.max_photo_bytes:
        raise too_large(limits.max_photo_bytes)
    return Write(
        name,
        photo or None,
        None if attributes is None else _present(_parse(attributes, _Attributes)),
    )


async def many_products(upload: Upload, limits: Limits) -> list[Write]:
    """Changes of many products.

    JSON has them under `changes`. A form has the same list in its field `changes`, and the photos
    in the fields that the changes name.

    Raises:
        RequestError: the body is wrong, over a limit, or arrives too slowly.
    """
    if upload.media_type == FORM:
        fields = fields_of(upload, await upload.read(limits.max_request_bytes))
        if "changes" not in fields:
            raise MalformedRequest("the form has no field 'changes'; send a list of changes in it")
        changes = _parse(fields.pop("changes"), _List)
    elif upload.media_type == _JSON:
        fields = {}
        changes = _parse(await upload.read(MAX_CHANGES_BYTES), _Changes).changes
    else:
        raise UnsupportedMediaType(
            f"the body is declared as {quote(upload.media_type or 'nothing')}; send "
            "multipart/form-data with photos, or application/json without"
        )
    for name, count in Counter(each.id for each in changes).items():
        if count > 1:
            raise MalformedRequest(f"there are {count} changes of {quote(name)}; send one")
    if len(fields) > limits.max_request_photos:
        raise RequestTooLarge(f"send at most {limits.max_request_photos} photos in this call")
    writes = [_write(each, fields, limits) for each in changes]
    if strange := fields.keys() - {each.image for each in changes}:
        raise MalformedRequest(f"no change names the photo in the field {quote(min(strange))}")
    return writes


def product_id(name: str) -> str:
    """An id that a product may have.

    Raises:
        MalformedRequest: it may not.
    """
    if not re.fullmatch(ID, name):
        raise MalformedRequest(f"{quote(name)} is no id; send 1 to 200 printable characters")
    return name


def _write(change: _Change, photos: Mapping[str, bytes], limits: Limits) -> Write:
    named = f"the change of {quote(change.id)}"
    if change.remove:
        if change.image is not None or change.attributes is not None:
            raise MalformedRequest(
                f"{named} removes the product, and has more; send one or the other"
            )
        return Write(change.id, removes=True)
    if change.image is None and change.attributes is None:
        raise MalformedRequest(f"{named} has neither image, attributes nor remove; send one")
    photo = None if change.image is None else photos.get(change.image, b"")
    if photo == b"":
        raise MalformedRequest(
            f"{named} has its image in the field {quote(change.image or '')}, where there is none"
        )
    if photo is not None and len(photo) > limits.max_photo_bytes:
        raise too_large(limits.max_photo_bytes)
    attributes = None if change.attributes is None else _present(change.attributes)
    return Write(change.id, photo, attributes)


def _present(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value is not None}


def _parse(text: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequest(f"what should describe products is wrong: {error}") from error

"""Reads the tensors of an inference request, and writes those of its response.

This is the Open Inference Protocol (V2) with the extensions for binary tensors and classification.
An input is `photos`, files as BYTES, or `images`, raw pixels; an output is a head's probabilities.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from deployments.errors import MalformedRequest, RequestTooLarge, quote
from deployments.http.bodies import too_large
from deployments.http.served_model import ServedModel
from deployments.settings import Limits
from mlc_core.photo.bitmap import bitmaps
from mlc_core.spec import EMBEDDING

PHOTOS, IMAGES = "photos", "images"  # the inputs
DATATYPES = {PHOTOS: "BYTES", IMAGES: "UINT8"}
SHAPES = {PHOTOS: [1], IMAGES: [-1, -1, 3]}  # of one photo or image
BASE64 = "base64"
# Its numbers become objects of Python, while no other request is served.
MAX_JSON_PIXELS_BYTES = 8 * 2**20
_CHANNELS = 3
_SPACE = b" \t\r\n"
_NO_SHARED_MEMORY = "there is no shared memory here; tensors come and go with the request"
_LENGTH = struct.Struct("<I")
_MOST = 2**40  # of sizes; Python can't even print the largest that JSON may have
_WRONG = (msgspec.MsgspecError, ValueError, RecursionError)  # what wrong JSON raises


class _Parameters(msgspec.Struct):
    binary_data_size: Annotated[int, msgspec.Meta(ge=0, le=_MOST)] | None = None
    binary_data_output: bool = False
    binary_data: bool | None = None
    content_type: str = ""
    classification: Annotated[int, msgspec.Meta(ge=0)] = 0
    shared_memory_region: Any = None


class _Parametrized(msgspec.Struct):
    parameters: _Parameters | None = None

    @property
    def given(self) -> _Parameters:
        return self.parameters or _NO_PARAMETERS


class _Input(_Parametrized, kw_only=True):
    name: str
    datatype: str
    shape: list[Annotated[int, msgspec.Meta(ge=-_MOST, le=_MOST)]]
    data: msgspec.Raw = msgspec.Raw()


class _Output(_Parametrized, kw_only=True):
    name: str


class _Request(_Parametrized, kw_only=True):
    inputs: list[_Input]
    outputs: list[_Output] | None = None
    id: str | None = None


class Wanted(NamedTuple):
    """An output that a client asks for.

    Attributes:
        classes: how many of the most probable classes to name; 0 for all probabilities.
        binary: whether it follows the JSON instead of being part of it.
    """

    name: str
    classes: int
    binary: bool


class Tensors(NamedTuple):
    """What a request sends and asks for.

    Attributes:
        id: that the client gave the request; "" for none.
        photos: files, also in place of raw images.
    """

    id: str
    photos: Sequence[bytes]
    outputs: Sequence[Wanted]


class Inferred(msgspec.Struct):
    """What the pipeline answers to a photo; see mlc_core.labels.

    Attributes:
        model: its name and version.
        probabilities: head -> little-endian float32.
        embedding: its vector, if it was asked for.
    """

    model: dict[str, str]
    probabilities: dict[str, bytes]
    embedding: dict[str, Any] = {}

    @property
    def identity(self) -> tuple[str, str]:
        """Name and version of the model that answered."""
        return self.model["name"], self.model["version"]

    def row(self, output: str) -> bytes:
        """One row of an output, little-endian float32."""
        if output == EMBEDDING:
            return np.asarray(self.embedding["vector"], "<f4").tobytes()
        return self.probabilities[output]


_NO_PARAMETERS = _Parameters()
_decode = msgspec.json.Decoder(_Request).decode
_decode_numbers = msgspec.json.Decoder(list[float]).decode
_decode_texts = msgspec.json.Decoder(list[str | list[str]]).decode


def read(body: bytes, json_bytes: int | None, model: ServedModel, limits: Limits) -> Tensors:
    """The tensors of a request.

    Args:
        json_bytes: how much of the body is JSON, and binary tensors follow; None for all of it.

    Raises:
        MalformedRequest: it is no request of the protocol, or asks for what the model lacks.
        RequestTooLarge: it has too many photos, or one of too many bytes.
    """
    if json_bytes is not None and json_bytes > len(body):
        raise MalformedRequest(
            f"the body has {len(body)} bytes, fewer than its JSON by "
            "Inference-Header-Content-Length"
        )
    view = memoryview(body)
    try:
        request = _decode(view[:json_bytes])
    except _WRONG as error:
        raise MalformedRequest(f"the JSON of the request is wrong: {error}") from error
    binary = _binary_tensors(
        request.inputs, view[len(body) if json_bytes is None else json_bytes :]
    )
    if len(request.inputs) != 1 or request.inputs[0].name not in DATATYPES:
        names = ", ".join(quote(each.name) for each in request.inputs[:5]) or "none"
        raise MalformedRequest(f"the inputs are {names}; send one, {PHOTOS!r} or {IMAGES!r}")
    tensor, outputs = request.inputs[0], _outputs(request, model)
    if tensor.datatype != DATATYPES[tensor.name]:
        raise MalformedRequest(
            f"{tensor.name} has the datatype {quote(tensor.datatype)}; "
            f"it must be {DATATYPES[tensor.name]}"
        )
    shape = tensor.shape
    if tensor.name == PHOTOS:
        fits = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    else:
        fits = len(shape) == 4 and shape[3] == _CHANNELS
    if not fits or min(shape) < 1:
        raise MalformedRequest(
            f"{tensor.name} has the shape {shape[:9]}; it must be "
            + ("[N] or [N, 1]" if tensor.name == PHOTOS else "[N, height, width, 3]")
        )
    if shape[0] > limits.max_infer_photos:
        raise RequestTooLarge(f"send at most {limits.max_infer_photos} photos in this call")
    if tensor.name == PHOTOS:
        coding = tensor.given.content_type or request.given.content_type
        photos = _photos(tensor, binary[0], coding, limits)
    else:
        photos = bitmaps(_pixels(tensor, binary[0], limits))
    return Tensors(request.id or "", photos, outputs)


def write(
    tensors: Tensors, model: ServedModel, answers: Sequence[Inferred]
) -> tuple[bytes, int | None]:
    """The body of a response, and how much of it is JSON; None if there are no binary tensors."""
    outputs, parts = [], []
    for wanted in tensors.outputs:
        rows = b"".join([answer.row(wanted.name) for answer in answers])
        values = np.frombuffer(rows, "<f4").reshape(len(answers), -1)
        texts: list[str] = []
        if wanted.classes:
            texts = _named(values, model.heads[wanted.name], wanted.classes)
        output: dict[str, Any] = {
            "name": wanted.name,
            "datatype": "BYTES" if texts else "FP32",
            "shape": [len(values), len(texts) // len(values) if texts else values.shape[1]],
        }
        if wanted.binary:
            part = _elements(texts) if texts else rows
            parts.append(part)
            output["parameters"] = {"binary_data_size": len(part)}
        else:
            output["data"] = texts or values.ravel().tolist()
        outputs.append(output)
    head = {"model_name": model.name, "model_version": model.version}
    if tensors.id:
        head["id"] = tensors.id
    text = msgspec.json.encode(head | {"outputs": outputs})
    return b"".join([text, *parts]), len(text) if parts else None


def _binary_tensors(inputs: Sequence[_Input], rest: memoryview) -> list[memoryview | None]:
    """What follows the JSON, for each input; None for one whose data is in the JSON."""
    tensors, at = list[memoryview | None](), 0
    for each in inputs:
        if each.given.shared_memory_region is not None:
            raise MalformedRequest(_NO_SHARED_MEMORY)
        size_bytes = each.given.binary_data_size
        if (size_bytes is None) == (not len(each.data)):
            raise MalformedRequest(
                f"the input {quote(each.name)} needs either data or a binary_data_size, with the "
                "header Inference-Header-Content-Length"
            )
        tensors.append(None if size_bytes is None else rest[at : at + size_bytes])
        at += size_bytes or 0
    if at != len(rest):
        raise MalformedRequest(
            f"{len(rest)} bytes follow the JSON, and the inputs have a binary_data_size of {at}"
        )
    return tensors


def _outputs(request: _Request, model: ServedModel) -> list[Wanted]:
    binary = request.given.binary_data_output
    if not request.outputs:
        return [Wanted(head, 0, binary) for head in model.heads]
    if len(request.outputs) > len(model.outputs):
        raise MalformedRequest(
            f"{len(request.outputs)} outputs are named; the model has {len(model.outputs)}"
        )
    wanted = []
    for name, parameters in ((each.name, each.given) for each in request.outputs):
        if parameters.shared_memory_region is not None:
            raise MalformedRequest(_NO_SHARED_MEMORY)
        if name not in model.outputs:
            raise MalformedRequest(
                f"the model has no output {quote(name)}; it has {', '.join(model.outputs)}"
            )
        if parameters.classification and name not in model.heads:
            raise MalformedRequest(f"the output {name} has no classes; leave classification out")
        own = parameters.binary_data
        wanted.append(Wanted(name, parameters.classification, binary if own is None else own))
    return wanted


def _photos(tensor: _Input, binary: memoryview | None, coding: str, limits: Limits) -> list[bytes]:
    """The files of the input `photos`."""
    count = tensor.shape[0]
    texts: Sequence[str | memoryview] = (
        _texts(tensor.data) if binary is None else _split(binary, count)
    )
    if len(texts) != count:
        raise MalformedRequest(f"photos has the shape {tensor.shape} and {len(texts)} elements")
    if coding not in ("", BASE64) or (binary is None and not coding):
        raise MalformedRequest(
            f'photos in JSON are base64, and say so: "parameters": {{"content_type": "{BASE64}"}}'
        )
    photos = []
    for n, text in enumerate(texts):
        if coding and len(text) > 2 * limits.max_photo_bytes:  # a third is coding, the rest space
            raise RequestTooLarge(f"photo {n}: {too_large(limits.max_photo_bytes)}")
        try:
            photo = _decoded(text) if coding else bytes(text)  # type: ignore[arg-type]
        except (binascii.Error, UnicodeEncodeError) as error:
            raise MalformedRequest(f"photo {n}: it is no base64: {error}") from error
        if not photo:
            raise MalformedRequest(f"photo {n}: it is empty")
        if len(photo) > limits.max_photo_bytes:
            raise RequestTooLarge(f"photo {n}: {too_large(limits.max_photo_bytes)}")
        photos.append(photo)
    return photos


def _texts(data: msgspec.Raw) -> list[str]:
    """The elements of BYTES in JSON, which may be nested as their shape is."""
    try:
        found = _decode_texts(data)
    except _WRONG as error:
        raise MalformedRequest(f"the data of photos is wrong: {error}") from error
    return [text for each in found for text in ([each] if isinstance(each, str) else each)]


def _decoded(text: str | memoryview) -> bytes:
    encoded = text.encode() if isinstance(text, str) else bytes(text)
    return binascii.a2b_base64(encoded.translate(None, _SPACE), strict_mode=True)


def _split(binary: memoryview, count: int) -> list[memoryview]:
    """The elements of binary BYTES, each of which follows its length.

    Raises:
        MalformedRequest: they are more than `count`, or the last one is cut off.
    """
    elements, at = list[memoryview](), 0
    while at < len(binary):
        if len(elements) == count:
            raise MalformedRequest(f"photos has more elements than its shape says, {count}")
        end = at + _LENGTH.size
        if end <= len(binary):
            end += _LENGTH.unpack_from(binary, at)[0]
        if end > len(binary):
            raise MalformedRequest(
                f"photo {len(elements)}: it is longer than what is left of binary_data_size"
            )
        elements.append(binary[at + _LENGTH.size : end])
        at = end
    return elements


def _pixels(tensor: _Input, binary: memoryview | None, limits: Limits) -> NDArray[np.uint8]:
    """The pixels of the input `images`, uint8 (N, H, W, 3)."""
    shape = tensor.shape
    if math.prod(shape[1:]) > limits.max_photo_bytes:
        raise RequestTooLarge(f"each image has {too_large(limits.max_photo_bytes)}")
    if binary is not None:
        pixels: NDArray[Any] = np.frombuffer(binary, np.uint8)
    elif len(tensor.data) > MAX_JSON_PIXELS_BYTES:
        raise RequestTooLarge(
            f"images in JSON have at most {MAX_JSON_PIXELS_BYTES} bytes; send them as binary data"
        )
    else:
        try:
            pixels = np.array(_decode_numbers(b"[%b]" % bytes(tensor.data).translate(None, b"[]")))
        except _WRONG as error:
            raise MalformedRequest(f"the data of images is wrong: {error}") from error
        if np.any((pixels % 1 != 0) | (pixels < 0) | (pixels > 255)):
            raise MalformedRequest("the data of images must be whole numbers, 0 to 255")
    if pixels.size != math.prod(shape):
        raise MalformedRequest(f"images has the shape {shape} and {pixels.size} elements")
    return pixels.reshape(shape).astype(np.uint8, copy=False)


def _named(values: NDArray[np.float32], classes: Sequence[str], count: int) -> list[str]:
    """The most probable classes of each row, `<value>:<index>:<class>`, row after row."""
    # Both keep the order of the classes where probabilities are equal; argmax takes a tenth.
    order = (
        values.argmax(axis=1, keepdims=True)
        if count == 1
        else np.argsort(-values, axis=1, kind="stable")[:, :count]
    )
    best = np.take_along_axis(values, order, axis=1)
    return [
        f"{value:f}:{n}:{classes[n]}"
        for value, n in zip(best.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]


def _elements(texts: Sequence[str]) -> bytes:
    """BYTES as binary data."""
    encoded = [text.encode() for text in texts]
    return b"".join([part for each in encoded for part in (_LENGTH.pack(len(each)), each)])

"""What a group looks like on a connection between two replicas: frames, and messages in them.

A frame is a fixed header (number of the call, length of the head, length of the payload), a head in
MessagePack, and a payload of photos, pixels or answers, one after the other. A frame without a head
says that the photo whose number it holds is about to be decoded, or, if it holds none, that all are
decoded. Nothing is unpickled: a head is decoded against the types below. Errors of a list keep
their kind; others arrive as RuntimeError with their text.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from deployments import errors
from deployments.messages import (
    Answer,
    Deadline,
    GroupAnswers,
    ImageGroup,
    Photo,
    PhotoGroup,
    Trace,
)
from mlc_core import errors as mlc_errors
from mlc_core.labels import Choice
from mlc_core.spec import ImageSize

PROTOCOL = b"MLC\x05"  # the last byte is its version: replicas of another one refuse it
HEADER = struct.Struct("!QII")  # call, bytes of the head, bytes of the payload
MAX_HEAD_BYTES, MAX_PAYLOAD_BYTES = 2**20, 2**30
_MAX_ERROR_CHARACTERS = 2000

Buffer = bytes | bytearray | memoryview
Parts = tuple[bytes, Sequence[Buffer]]  # a head, and the parts of a payload

_ERRORS: dict[str, Callable[[str], Exception]] = {
    kind.__name__: kind
    for kind in (
        errors.DeadlinePassed, errors.Overloaded, errors.Unavailable, errors.HarmfulPhoto,
        mlc_errors.UnsupportedFormat, mlc_errors.UndecodablePhoto, mlc_errors.PhotoTooLarge,
        mlc_errors.PhotoTooCostly, mlc_errors.PrecisionUnknown,
        mlc_errors.EmbeddingUnknown, ValueError, RuntimeError,
    )
}  # fmt: skip


class _PhotoHead(msgspec.Struct, array_like=True):
    size_bytes: int
    choice: Choice
    request_id: str


class _PhotoGroupHead(msgspec.Struct, array_like=True):
    left_s: float
    photos: list[_PhotoHead]
    harmful: list[bytes]
    careful: bool


class _ImageGroupHead(msgspec.Struct, array_like=True):
    height_px: int
    width_px: int
    left_s: float
    choices: list[Choice]
    request_ids: list[str]


class _ErrorHead(msgspec.Struct, array_like=True):
    kind: str
    text: str
    wanted_px: tuple[int, int] | None = None  # height and width, of WrongImageSize


class _AnswersHead(msgspec.Struct, array_like=True):
    sizes_bytes: list[int]  # of answers; -1 - n for the nth error
    errors: list[_ErrorHead]
    stages_s: dict[str, float]
    batch_size: int
    model: str


_encode = msgspec.msgpack.Encoder().encode
_decode_photos = msgspec.msgpack.Decoder(_PhotoGroupHead).decode
_decode_images = msgspec.msgpack.Decoder(_ImageGroupHead).decode
_decode_answers = msgspec.msgpack.Decoder(_AnswersHead).decode


def encode_photos(group: PhotoGroup) -> Parts:
    heads = [_PhotoHead(len(p.data), p.choice, p.request_id) for p in group.photos]
    left_s, harmful = group.deadline.left_s(), list(group.harmful)
    head = _encode(_PhotoGroupHead(left_s, heads, harmful, group.careful))
    return head, [photo.data for photo in group.photos]


def decode_photos(head: Buffer, payload: memoryview) -> PhotoGroup:
    """Raises ValueError, as the others below, for what is no such message."""
    group, photos, at = _decode_photos(head), [], 0
    for photo in group.photos:
        data = bytes(_slice(payload, at, photo.size_bytes))
        photos.append(Photo(data, photo.choice, photo.request_id))
        at += photo.size_bytes
    return PhotoGroup(photos, Deadline.after(group.left_s), group.harmful, group.careful)


def encode_images(group: ImageGroup) -> Parts:
    head = _ImageGroupHead(
        group.height_px, group.width_px, group.deadline.left_s(),
        list(group.choices), list(group.request_ids),
    )  # fmt: skip
    return _encode(head), [group.pixels]


def decode_images(head: Buffer, payload: memoryview) -> ImageGroup:
    group = _decode_images(head)
    if len(payload) != len(group.choices) * group.height_px * group.width_px * 3:
        raise ValueError("the pixels are not those of the images that the head names")
    return ImageGroup(
        payload, group.height_px, group.width_px, group.choices, group.request_ids,
        Deadline.after(group.left_s),
    )  # fmt: skip


def encode_answers(reply: GroupAnswers) -> Parts:
    sizes_bytes: list[int] = []
    faults: list[_ErrorHead] = []
    parts: list[Buffer] = []
    for answer in reply.answers:
        if isinstance(answer, BaseException):
            faults.append(_encode_error(answer))
            sizes_bytes.append(-len(faults))
        else:
            sizes_bytes.append(len(answer))
            parts.append(answer)
    stages_s, batch_size, model = reply.trace
    return _encode(_AnswersHead(sizes_bytes, faults, dict(stages_s), batch_size, model)), parts


def decode_answers(head: Buffer, payload: memoryview) -> GroupAnswers:
    reply, at = _decode_answers(head), 0
    answers: list[Answer] = []
    for size_bytes in reply.sizes_bytes:
        if -size_bytes > len(reply.errors):
            raise ValueError("the head has fewer errors than it says")
        if size_bytes < 0:
            answers.append(_decode_error(reply.errors[-size_bytes - 1]))
        else:
            answers.append(bytes(_slice(payload, at, size_bytes)))
            at += size_bytes
    return GroupAnswers(answers, Trace(reply.stages_s, reply.batch_size, reply.model))


def failed(error: Exception, photos: int) -> GroupAnswers:
    """The answers to a group whose handler raised."""
    return GroupAnswers([error] * photos, Trace({}, 0, ""))


def _encode_error(error: BaseException) -> _ErrorHead:
    if isinstance(error, errors.WrongImageSize):
        size = error.wanted
        return _ErrorHead("WrongImageSize", "", (size.height_px, size.width_px))
    name = type(error).__name__
    text = str(error)[:_MAX_ERROR_CHARACTERS].encode(errors="replace").decode()
    return _ErrorHead(name if name in _ERRORS else "RuntimeError", text or name)


def _decode_error(head: _ErrorHead) -> Exception:
    if head.kind == "WrongImageSize" and head.wanted_px:
        return errors.WrongImageSize(ImageSize(*head.wanted_px))
    return _ERRORS.get(head.kind, RuntimeError)(head.text)


def _slice(payload: memoryview, at: int, size_bytes: int) -> memoryview:
    if not 0 <= at <= at + size_bytes <= len(payload):
        raise ValueError("the payload is shorter than its head says")
    return payload[at : at + size_bytes]


Encode = Callable[[Any], Parts]
Decode = Callable[[Buffer, memoryview], Any]

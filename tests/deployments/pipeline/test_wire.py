"""Claims about messages between replicas: what goes in comes out, and garbage is a ValueError."""

import msgspec
import pytest

from deployments import errors
from deployments.messages import (
    Deadline,
    GroupAnswers,
    ImageGroup,
    Photo,
    PhotoGroup,
    Trace,
)
from deployments.pipeline import wire
from mlc_core import errors as mlc_errors
from mlc_core.labels import Choice
from mlc_core.spec import ImageSize


def sent(parts):
    """A head and a payload as they arrive."""
    head, payload = parts
    return head, memoryview(b"".join(payload))


def test_photos_arrive_with_their_choices_and_ids():
    photos = [
        Photo(b"abc", Choice(3, 0.5, 0.95, consistent=False), "first"),
        Photo(b"", Choice(), "second"),
    ]
    arrived = wire.decode_photos(*sent(wire.encode_photos(PhotoGroup(photos, Deadline.after(9)))))
    assert list(arrived.photos) == photos
    assert 8 < arrived.deadline.left_s() <= 9


def test_images_arrive_with_their_size():
    group = ImageGroup(bytes(range(24)), 2, 2, [Choice(2), Choice()], ["a", "b"], Deadline.after(9))
    arrived = wire.decode_images(*sent(wire.encode_images(group)))
    assert bytes(arrived.pixels) == group.pixels
    assert (arrived.height_px, arrived.width_px) == (2, 2)
    assert (list(arrived.choices), list(arrived.request_ids)) == (group.choices, ["a", "b"])


def test_answers_and_errors_arrive_in_their_order():
    trace = Trace({"decode": 0.25}, 2, "fashion/1")
    answers = [b'{"a":1}', mlc_errors.UndecodablePhoto("cut off"), b"{}"]
    arrived = wire.decode_answers(*sent(wire.encode_answers(GroupAnswers(answers, trace))))
    assert (arrived.answers[0], arrived.answers[2]) == (b'{"a":1}', b"{}")
    assert isinstance(arrived.answers[1], mlc_errors.UndecodablePhoto)
    assert str(arrived.answers[1]) == "cut off"
    assert arrived.trace == trace


@pytest.mark.parametrize(
    "error",
    [
        errors.DeadlinePassed("late"),
        errors.Overloaded("full"),
        errors.Unavailable("nobody"),
        errors.WrongImageSize(ImageSize(96, 64)),
        mlc_errors.UnsupportedFormat("a PDF"),
        mlc_errors.PrecisionUnknown("no thresholds"),
        mlc_errors.PhotoTooLarge("wide"),
        mlc_errors.PhotoTooCostly("850 scans"),
        ValueError("bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_kind_and_text(error):
    (arrived,), _ = wire.decode_answers(*sent(wire.encode_answers(wire.failed(error, 1))))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_an_error_that_the_list_does_not_name_keeps_its_text():
    (arrived,), _ = wire.decode_answers(*sent(wire.encode_answers(wire.failed(KeyError("x"), 1))))
    assert type(arrived) is RuntimeError
    assert "x" in str(arrived)


def test_one_error_answers_each_photo_of_a_group():
    assert len(wire.failed(RuntimeError("gone"), 3).answers) == 3


@pytest.mark.parametrize("decode", [wire.decode_photos, wire.decode_images, wire.decode_answers])
@pytest.mark.parametrize("head", [b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03", b"\xff" * 100])
def test_garbage_is_a_value_error(decode, head):
    with pytest.raises(ValueError, match=r"."):
        decode(head, memoryview(b""))


def test_a_payload_shorter_than_its_head_says_is_a_value_error():
    head, payload = sent(wire.encode_photos(PhotoGroup([Photo(b"abc", Choice(), "")], Deadline(0))))
    with pytest.raises(ValueError, match="shorter"):
        wire.decode_photos(head, payload[:-1])
    group = ImageGroup(bytes(12), 2, 2, [Choice()], ["a"], Deadline(0))
    head, payload = sent(wire.encode_images(group))
    with pytest.raises(ValueError, match="pixels"):
        wire.decode_images(head, payload[:-1])


def test_an_answer_that_names_no_error_is_a_value_error():
    head = msgspec.msgpack.encode([[-2], [["ValueError", "a", None]], {}, 0, ""])
    with pytest.raises(ValueError, match="fewer errors"):
        wire.decode_answers(head, memoryview(b""))


def test_texts_of_errors_are_cut_and_sent_whatever_they_hold():
    (arrived,), _ = wire.decode_answers(
        *sent(wire.encode_answers(wire.failed(ValueError("\udcff" + "x" * 10**6), 1)))
    )
    assert type(arrived) is ValueError
    assert 1000 < len(str(arrived)) < 10_000

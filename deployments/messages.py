"""The messages between deployments: plain tuples of bytes, numbers and texts."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from mlc_core.catalog.filters import Filter
from mlc_core.labels import Choice

Answer = bytes | Exception  # the JSON that answers one photo, or the reason why there is none

PROBE_ID = "readiness-probe"  # the request id of the probe's photo, which is not traffic


class Deadline:
    """A point on this process' monotonic clock.

    Messages carry the seconds that are left, since clocks differ from node to node. They do not
    count time on the wire.
    """

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def left_s(self) -> float:
        """Seconds until the deadline; negative when it has passed."""
        return self.at - time.monotonic()


class Photo(NamedTuple):
    """One photo that the ingress sends to the preprocessor.

    Attributes:
        request_id: id of the request that sent it, for logs.
    """

    data: bytes
    choice: Choice
    request_id: str


async def _say_nothing(_number: int | None) -> None:
    pass


class PhotoGroup(NamedTuple):
    """Photos that go to the preprocessor together.

    Attributes:
        deadline: the latest deadline of its photos. If the deadline of one photo passes earlier,
            the ingress answers that photo itself.
        harmful: digests of photos that the receiver is to refuse; see `pipeline.quarantine`.
        careful: whether to decode one photo after the other, and to say before each which it is.
        begins: says so to the sender, with the number of the photo in the group, or None when none
            is decoded any more, and returns when that has left the process; never sent.
    """

    photos: Sequence[Photo]
    deadline: Deadline
    harmful: Sequence[bytes] = ()
    careful: bool = False
    begins: Callable[[int | None], Awaitable[None]] = _say_nothing


class ImageGroup(NamedTuple):
    """Decoded photos that go to a classifier together.

    Attributes:
        pixels: uint8 (N, height_px, width_px, 3), RGB, C order.
        choices: N of them.
        request_ids: ids of the requests that sent them, for logs, N of them.
    """

    pixels: bytes | memoryview
    height_px: int
    width_px: int
    choices: Sequence[Choice]
    request_ids: Sequence[str]
    deadline: Deadline


class Embedded(NamedTuple):
    """What the network says of the photo of a product.

    Attributes:
        digest: of the embedding; see mlc_core.spec.Embedding.
        vector: `dimensions` numbers, of length 1.
        labels: head -> label.
    """

    digest: str
    vector: Sequence[float]
    labels: Mapping[str, str]


class Change(NamedTuple):
    """A change of one product of the catalogue.

    Attributes:
        id: of the product.
        embedded: None leaves the photo of the product as it is.
        photo: the photo's file.
        attributes: None leaves them as they are.
        removes: whether the product leaves the catalogue.
    """

    id: str
    embedded: Embedded | None = None
    photo: bytes = b""
    attributes: Mapping[str, str | float | bool] | None = None
    removes: bool = False


class Search(NamedTuple):
    """What to search the catalogue for.

    Attributes:
        embedded: the photo that is searched by; None to search by the photo of product `id`.
        k: at most so many products.
    """

    embedded: Embedded | None
    id: str
    k: int
    filters: Sequence[Filter]


class Trace(NamedTuple):
    """Where a group's time went behind the ingress; its photos share one.

    Attributes:
        stages_s: stage, as catalogue.STAGE_DURATION names it -> seconds.
        batch_size: images in the largest batch that the engine ran; 0 when it ran none.
        model: name and version of each model that answered, joined by "+"; "" when none did.
    """

    stages_s: Mapping[str, float]
    batch_size: int
    model: str

    @classmethod
    def merge(cls, parts: Sequence[Trace]) -> Trace:
        """Merge traces into one: the longest time of each stage, the largest batch, all models."""
        if len(parts) == 1:
            return parts[0]
        stages_s: dict[str, float] = {}
        for part in parts:
            for stage, spent_s in part.stages_s.items():
                stages_s[stage] = max(spent_s, stages_s.get(stage, 0.0))
        models = dict.fromkeys(part.model for part in parts if part.model)
        largest = max((part.batch_size for part in parts), default=0)
        return cls(stages_s, largest, "+".join(models))


class GroupAnswers(NamedTuple):
    """The answers to a group, in its order, and its trace."""

    answers: Sequence[Answer]
    trace: Trace

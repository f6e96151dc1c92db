"""What crosses from one deployment to another.

Plain tuples of bytes and numbers, which pickle fast. Deadlines travel as the seconds that are
left, since clocks differ from node to node.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mlc_core.labels import Choice

Answer = bytes | Exception  # the JSON that answers one photo, or why there is none

PROBE_ID = "readiness-probe"  # a request id; what carries it is no traffic


class Photo(NamedTuple):
    """One photo on its way from the ingress to the preprocessor.

    Attributes:
        request_id: of the request that sent it, for logs.
    """

    data: bytes
    choice: Choice
    left_s: float
    request_id: str


class Images(NamedTuple):
    """A group of decoded photos on its way from the preprocessor to the classifier.

    Attributes:
        data: uint8 (N, height_px, width_px, 3), RGB, C order.
        choices: N of them.
        left_s: seconds until the deadline of each, N of them.
        request_ids: of the requests that sent them, for logs, N of them.
    """

    data: bytes
    height_px: int
    width_px: int
    choices: Sequence[Choice]
    left_s: Sequence[float]
    request_ids: Sequence[str]


class Trace(NamedTuple):
    """What a group met behind the ingress: the same for all its photos, told once for them.

    Attributes:
        stages_s: stage, by the names of metrics.STAGE_S -> seconds.
        batch: images in the batch that the engine ran; 0 when it ran none.
        model: name and version of the model that answered; "" when none did.
    """

    stages_s: Mapping[str, float]
    batch: int
    model: str


class Answers(NamedTuple):
    """The answers to a group, in its order, and what it met."""

    answers: Sequence[Answer]
    trace: Trace


def left_s(deadline: float) -> float:
    """Seconds until a deadline of this process' monotonic clock."""
    return deadline - time.monotonic()


def deadline(left_s: float) -> float:
    """The deadline on this process' monotonic clock; time on the wire is not counted."""
    return time.monotonic() + left_s

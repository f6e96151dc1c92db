"""`make many-photos`: what a photo costs in calls with many of them, by both APIs of one service.

Batch requests of /v1 beside inference by the Open Inference Protocol, in binary. Rounds are
interleaved: machines drift, but ratios within a run hold. It ends with a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bench import say
from bench.load import ClosedLoop
from bench.servers import Server, json_of, machine
from mlc_core.photo import decode
from mlc_core.spec import ImageSize
from samples.photos import small_photos

_BOUNDARY = "many"
_JSON_BYTES = 500  # one length for all bodies, since wrk has one set of headers
_CALLS = 8  # different bodies


class Side(NamedTuple):
    """One way to send many photos.

    Attributes:
        compared_with: the name of another side.
    """

    name: str
    photos: int
    load: ClosedLoop
    compared_with: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.many_photos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--photos", type=int, default=32, help="of a call, in both APIs")
    args = parser.parse_args()
    figures: dict[str, list[float]] = defaultdict(list)
    with Server() as server:
        sides = _sides(json_of(f"{server.url}/v1/model"), args.photos)
        for side in sides:
            side.load(server.url, args.connections, 3)
        for number in range(args.rounds):
            for side in sides[:: 1 if number % 2 else -1]:  # none is always first
                _measure(server, side, args.connections, args.seconds, figures)
            for side in sides:
                if side.compared_with:
                    name = f"{side.name}: core-ms to those of {side.compared_with}"
                    costs = [f"{each}: core-ms" for each in (side.name, side.compared_with)]
                    figures[name].append(figures[costs[0]][-1] / figures[costs[1]][-1])
            say(f"round {number + 1} of {args.rounds}")
    width = max(map(len, figures))
    for name, values in figures.items():
        median, least, most = statistics.median(values), min(values), max(values)
        say(f"{name:{width}} {median:8.3f} ({least:.3f} to {most:.3f})")
    line = {"machine": machine(), "rounds": args.rounds, "figures": figures}
    sys.stdout.write(json.dumps(line) + "\n")
    return 0


def _measure(
    server: Server, side: Side, connections: int, seconds: float, figures: dict[str, list[float]]
) -> None:
    before = sum(server.cpu_s().values())
    result = side.load(server.url, connections, seconds)
    spent_s = sum(server.cpu_s().values()) - before
    if result.failures:
        raise RuntimeError(f"{side.name}: {result.failures} calls were not answered with 200")
    answered = side.photos * result.answers
    figures[f"{side.name}: core-ms"].append(1e3 * spent_s / answered)
    figures[f"{side.name}: photos/s"].append(answered / result.seconds)


def _sides(model: dict[str, Any], count: int) -> list[Side]:
    drawn = small_photos(256)
    size = ImageSize(**model["image"])
    path = f"/v2/models/{model['name']}/infer"
    batch, tensor = f"batch, {count} photos", f"V2, {count} photos"

    def inference(bodies: list[bytes]) -> ClosedLoop:
        return ClosedLoop(bodies, path, {"Inference-Header-Content-Length": str(_JSON_BYTES)})

    def calls(photos: int) -> list[Sequence[bytes]]:
        return [[drawn[(n * photos + at) % 256] for at in range(photos)] for n in range(_CALLS)]

    form = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    many, hundred = calls(count), calls(100)
    return [
        Side(batch, count, ClosedLoop([_form(each) for each in many], "/v1/classify/batch", form)),
        Side(tensor, count, inference([_photos(each) for each in many]), batch),
        Side(
            f"V2, {count} photos, one class each",
            count,
            inference([_photos(each, list(model["heads"])) for each in many]),
            batch,
        ),
        Side("V2, 100 photos", 100, inference([_photos(each) for each in hundred]), batch),
        Side(
            f"V2, {count} images", count, inference([_images(each, size) for each in many]), tensor
        ),
    ]


def _form(photos: Sequence[bytes]) -> bytes:
    head = 'Content-Disposition: form-data; name="images"; filename="p.jpg"'
    parts = [f"--{_BOUNDARY}\r\n{head}\r\n\r\n".encode() + photo for photo in photos]
    return b"\r\n".join([*parts, f"--{_BOUNDARY}--\r\n".encode()])


def _photos(photos: Sequence[bytes], classified: Sequence[str] = ()) -> bytes:
    elements = b"".join(struct.pack("<I", len(photo)) + photo for photo in photos)
    return _body("photos", "BYTES", [len(photos)], elements, classified)


def _images(photos: Sequence[bytes], size: ImageSize) -> bytes:
    images = np.stack([decode(photo, size) for photo in photos])
    return _body("images", "UINT8", images.shape, images.tobytes())


def _body(
    name: str, datatype: str, shape: Sequence[int], data: bytes, classified: Sequence[str] = ()
) -> bytes:
    tensor = {
        "name": name, "datatype": datatype, "shape": shape,
        "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    request: dict[str, Any] = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    if classified:
        one = {"classification": 1}
        request["outputs"] = [{"name": head, "parameters": one} for head in classified]
    return json.dumps(request).ljust(_JSON_BYTES).encode() + data


if __name__ == "__main__":
    sys.exit(main())

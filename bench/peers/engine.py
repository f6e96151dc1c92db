"""Decodes a photo and runs the model on ONNX Runtime, in the same way for each peer.

A careful user writes such code around the model's files. It imports nothing from mlc_core, which
the peers' environment does not have. It does not limit or check photos.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bench.peers.settings import PeerSettings

ImageArray = NDArray[np.uint8]  # (H, W, 3), RGB
Answer = dict[str, dict[str, dict[str, Any]]]  # our JSON without model and alternatives


def load_decoder(settings: PeerSettings) -> Callable[[bytes], ImageArray]:
    """A function that decodes a photo to the size that the model takes."""
    image = _spec(settings)["image"]
    decode = {"pillow": _decode_with_pillow, "simplejpeg": _decode_with_simplejpeg}
    return partial(decode[settings.decoder], size_px=(image["width_px"], image["height_px"]))


def load_model(settings: PeerSettings) -> Callable[[Sequence[ImageArray]], list[Answer]]:
    """A function that names the labels of a batch of images, on the thread that calls it."""
    import onnxruntime as ort  # noqa: PLC0415  (a process that only decodes does not need it)

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        # Without VNNI, sums of int8 products saturate and most labels are wrong.
        options.add_session_config_entry("session.x64quantprecision", "1")
    file = {"float32": "model.onnx", "int8": "model.int8.onnx"}[settings.precision]
    session = ort.InferenceSession(settings.model / file, options, ["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name
    outputs = [output.name for output in session.get_outputs()]
    classes: dict[str, list[str]] = _spec(settings)["heads"]

    def infer(images: Sequence[ImageArray]) -> list[Answer]:
        probabilities = dict(
            zip(outputs, session.run(None, {input_name: np.stack(images)}), strict=True)
        )  # head -> (N, classes)
        best = {head: probabilities[head].argmax(axis=1).tolist() for head in classes}
        confidence = {head: probabilities[head].max(axis=1).tolist() for head in classes}
        return [
            {
                "labels": {
                    head: {
                        "label": classes[head][best[head][row]],
                        "confidence": round(confidence[head][row], 4),
                    }
                    for head in classes
                }
            }
            for row in range(len(images))
        ]

    image = _spec(settings)["image"]
    blank = np.zeros((image["height_px"], image["width_px"], 3), np.uint8)
    for size in (1, 8, 32):  # allocate memory before the first request
        infer([blank] * size)
    return infer


def _spec(settings: PeerSettings) -> Any:
    return json.loads((settings.model / "spec.json").read_text(encoding="utf-8"))


def _decode_with_pillow(photo: bytes, size_px: tuple[int, int]) -> ImageArray:
    image: Image.Image = Image.open(io.BytesIO(photo))
    image.draft("RGB", (2 * size_px[0], 2 * size_px[1]))  # decode a JPEG at a reduced scale
    ImageOps.exif_transpose(image, in_place=True)
    return _fitted(image if image.mode == "RGB" else image.convert("RGB"), size_px)


def _decode_with_simplejpeg(photo: bytes, size_px: tuple[int, int]) -> ImageArray:
    if not photo.startswith(b"\xff\xd8"):
        return _decode_with_pillow(photo, size_px)
    import simplejpeg  # noqa: PLC0415  (the default decoder does not need it)

    width_px, height_px = size_px
    pixels: ImageArray = simplejpeg.decode_jpeg(
        photo, "RGB", min_height=2 * height_px, min_width=2 * width_px, min_factor=2
    )
    image = Image.fromarray(pixels)
    if b"Exif\0\0" in photo:  # simplejpeg ignores the orientation
        image.info["exif"] = Image.open(io.BytesIO(photo)).info.get("exif", b"")
        ImageOps.exif_transpose(image, in_place=True)
    return _fitted(image, size_px)


def _fitted(image: Image.Image, size_px: tuple[int, int]) -> ImageArray:
    if image.size != size_px:  # pad copies even an image of that size
        image = ImageOps.pad(image, size_px, color="white")
    return np.asarray(image)

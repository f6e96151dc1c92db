"""Writes images as photos that decode to just these images."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct("<2sIHHIIiiHHIIiiII")  # of the file, then BITMAPINFOHEADER
_ALIGNED = 4


def bitmaps(images: NDArray[np.uint8]) -> list[bytes]:
    """BMPs of 24 bits, uncompressed, which cost hardly anything to write and to decode.

    Args:
        images: (N, H, W, 3), RGB.
    """
    count, height, width, channels = images.shape
    row_bytes = -(-width * channels // _ALIGNED) * _ALIGNED
    rows = np.zeros((count, height, row_bytes), np.uint8)
    pixels = rows[:, :, : width * channels].reshape(count, height, width, channels)
    # A BMP begins with the bottom row, and its pixels are BGR.
    for channel in range(channels):
        pixels[..., channels - 1 - channel] = images[:, ::-1, :, channel]
    size_bytes = _HEADER.size + height * row_bytes
    header = _HEADER.pack(
        b"BM", size_bytes, 0, 0, _HEADER.size,
        40, width, height, 1, 8 * channels, 0, height * row_bytes, 0, 0, 0, 0,
    )  # fmt: skip
    return [header + each.tobytes() for each in rows]

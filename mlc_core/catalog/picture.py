"""Small pictures of products, for pages that show what a search found."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEDIA_TYPE = "image/webp"
_QUALITY = 70  # about a kilobyte


def picture_of(image: NDArray[np.uint8]) -> bytes:
    """The file of a decoded photo, (H, W, 3), as the network sees it."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=_QUALITY)
    return file.getvalue()

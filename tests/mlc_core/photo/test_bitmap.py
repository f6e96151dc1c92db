"""Claims about images that are sent as photos."""

import numpy as np
import pytest

from mlc_core.photo import decode, decode_s
from mlc_core.photo.bitmap import bitmaps
from mlc_core.spec import ImageSize


@pytest.mark.parametrize("size", [(80, 60), (1, 1), (3, 5), (7, 2), (64, 61)])
def test_an_image_decodes_to_just_itself(size):
    images = np.random.default_rng(0).integers(0, 256, (4, *size, 3), np.uint8)
    for image, photo in zip(images, bitmaps(images), strict=True):
        assert np.array_equal(decode(photo, ImageSize(*size)), image)


def test_it_takes_the_lane_of_small_photos():
    (photo,) = bitmaps(np.zeros((1, 80, 60, 3), np.uint8))
    assert decode_s(photo) < 0.001

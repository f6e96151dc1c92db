"""Settling: batch norms get the statistics of plain training images."""

import keras
import numpy as np
import pytest

from mlc_core.training.norms import settle_norms

pytestmark = pytest.mark.long


@pytest.mark.parametrize("photos", [512, 257, 3])
def test_norms_are_settled_on_the_images_as_they_are(photos):
    images = np.random.default_rng(0).integers(0, 256, (photos, 4, 4, 3), np.uint8)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(momentum=0.97),
        ]
    )
    settle_norms(model, images, seed=0)
    norm, dropout = model.layers[-1], model.layers[-2]
    scaled = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(norm.moving_mean, scaled.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(norm.moving_variance, scaled.var(axis=0), rtol=1e-3)
    assert (norm.momentum, dropout.rate) == (0.97, 0.5)

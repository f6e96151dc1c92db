"""Claims about the teacher. They need PyTorch, which the tests do not install."""

import re

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("efficientnet_lite_pytorch")

from mlc_core.spec import ImageSize, Spec
from mlc_core.training.dataset import DataSet
from mlc_core.training.teacher import teach

PHOTOS, EPOCHS = 128, 4
SIZE = ImageSize(height_px=40, width_px=30)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def data():
    """Plain pictures, of which the brightness is the label."""
    bright = np.arange(PHOTOS) % 2
    rng = np.random.default_rng(0)
    images = (bright[:, None, None, None] * 150 + rng.integers(0, 100, (PHOTOS, 40, 30, 3))).astype(
        np.uint8
    )
    labels = {"color": np.where(bright, "White", "Black")}
    return DataSet(np.arange(PHOTOS).astype(str), images, labels, {})


@pytest.fixture(scope="module")
def spec(data):
    return Spec("drawn", "1", SIZE, data.classes())


@pytest.fixture(scope="module")
def teacher(data, spec, tmp_path_factory):
    """A teacher of two networks that was killed after its first epoch and went on; its reports."""
    run = tmp_path_factory.mktemp("teacher")

    def kill(line):
        raise Killed(line)

    with pytest.raises(Killed, match=f"teacher 1, epoch 1/{EPOCHS}"):
        teach(data, data, spec, 2, EPOCHS, 7, run, kill)
    lines = []
    return teach(data, data, spec, 2, EPOCHS, 7, run, lines.append), lines, run


def test_it_learns_and_answers_with_probabilities(teacher, data):
    losses = [float(re.search(r"loss (\S+),", line)[1]) for line in teacher[1][1:]]
    assert losses[EPOCHS - 2] < losses[0]  # of the first network, without its first epoch
    assert losses[-1] < losses[EPOCHS - 1]
    probabilities = teacher[0](data.images)["color"]
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-3)
    # The moving average of so few steps is near the untaught network, but not at it.
    bright = probabilities[data.labels["color"] == "White", 1].mean()
    assert bright > probabilities[data.labels["color"] == "Black", 1].mean()


def test_a_killed_teacher_loses_no_finished_epoch(teacher):
    lines = teacher[1]
    assert lines[0] == "continuing teacher 1 after epoch 1"
    assert [line.split(":")[0] for line in lines[1:]] == [
        *(f"teacher 1, epoch {epoch}/{EPOCHS}" for epoch in range(2, EPOCHS + 1)),
        *(f"teacher 2, epoch {epoch}/{EPOCHS}" for epoch in range(1, EPOCHS + 1)),
    ]


def test_a_finished_teacher_is_not_trained_again(teacher, data, spec):
    lines = []
    again = teach(data, data, spec, 2, EPOCHS, 7, teacher[2], lines.append)
    assert lines == [f"continuing teacher {number} after epoch {EPOCHS}" for number in (1, 2)]
    np.testing.assert_array_equal(
        again(data.images[:8])["color"], teacher[0](data.images[:8])["color"]
    )

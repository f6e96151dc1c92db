"""Evaluation: its numbers are the textbooks', its larger photos are the same photos."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from mlc_core.photo import decode
from mlc_core.spec import ImageSize, Spec
from mlc_core.training.confusion import draw_confusion
from mlc_core.training.dataset import read_dataset
from mlc_core.training.evaluation import (
    class_numbers,
    enlarge,
    infer_all,
    macro_f1,
    measure,
    share,
    unknown_classes,
)
from samples.garments import draw_garment

SIZE = ImageSize(height_px=80, width_px=60)


def test_intervals_of_shares_are_wilsons():
    # Newcombe 1998, Statistics in Medicine 17:857, table I: 81/263, 15/148, 0/20, 29/29.
    for hits, of, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (29, 29, 0.8830, 1.0),
    ):
        found = share(hits, of)
        assert found["value"] == pytest.approx(hits / of, abs=1e-4)
        assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-4)


def test_macro_f1_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 9, 300), rng.integers(0, 9, 300)
    truth[truth == 4] = 3  # a class that is guessed but never occurs
    labels = np.unique(truth)
    expected = f1_score(truth, guess, labels=labels, average="macro", zero_division=0)
    assert macro_f1(truth, guess, 9) == pytest.approx(expected)


@pytest.fixture(scope="module")
def data(drawn):
    data = read_dataset(drawn, SIZE)
    return data.take(np.arange(0, len(data), 8))


@pytest.fixture(scope="module")
def spec(data):
    return Spec("drawn", "1", SIZE, data.classes())


@pytest.fixture(scope="module")
def oracle(data, spec):
    """Knows every picture, and how it was labelled; the nearest one for those it doesn't."""
    known = data.images.reshape(len(data), -1).astype(np.float32)

    def infer(images):
        flat = images.reshape(len(images), 1, -1).astype(np.float32)
        nearest = np.stack([np.square(known - one).sum(axis=1).argmin() for one in flat])
        return {
            head: np.eye(len(classes), dtype=np.float32)[
                class_numbers(data.labels[head][nearest], classes)
            ]
            for head, classes in spec.heads.items()
        }

    return infer


def test_who_is_always_right_scores_1(oracle, data, spec):
    metrics = measure(oracle, data, spec)
    json.dumps(metrics)
    assert metrics["test_photos"] == len(data)
    assert set(metrics["heads"]) == set(spec.heads)
    for numbers in metrics["heads"].values():
        for name in ("accuracy", "top_3_accuracy", "macro_f1"):
            assert numbers[name]["value"] == numbers[name]["high"] == 1
            assert numbers[name]["low"] <= 1
    assert set(metrics["larger_photos"]) == {"225×300", "1080×1440"}
    assert all(
        value == 1 for sizes in metrics["larger_photos"].values() for value in sizes.values()
    )


def test_who_always_says_the_same_scores_that_class_share(data, spec):

    def infer(images):
        return {
            head: np.tile(np.arange(len(classes), 0, -1, np.float32), (len(images), 1))
            for head, classes in spec.heads.items()
        }

    metrics = measure(infer, data, spec, larger_px=())["heads"]["color"]
    share_of = [(data.labels["color"] == name).mean() for name in spec.heads["color"]]
    assert metrics["accuracy"]["value"] == pytest.approx(share_of[0], abs=1e-4)
    assert metrics["top_3_accuracy"]["value"] == pytest.approx(sum(share_of[:3]), abs=1e-4)
    low, high = metrics["accuracy"]["low"], metrics["accuracy"]["high"]
    assert low < metrics["accuracy"]["value"] < high


def test_a_label_the_model_has_no_class_for_counts_as_wrong(data, spec, oracle):
    labels = {**data.labels, "color": np.array(["Chartreuse", *data.labels["color"][1:]])}
    strange = type(data)(data.ids, data.images, labels, {})
    color = measure(oracle, strange, spec, larger_px=())["heads"]["color"]
    assert color["accuracy"]["value"] == pytest.approx(1 - 1 / len(data), abs=1e-4)
    guessed = measure(oracle, data, spec, larger_px=())["heads"]["color"]
    assert color["macro_f1"]["value"] < guessed["macro_f1"]["value"]
    assert color["classes"] == len(spec.heads["color"])


def test_a_model_that_knows_no_class_of_the_data_scores_0(data, spec, oracle):
    labels = {**data.labels, "color": np.full(len(data), "Chartreuse")}
    strange = type(data)(data.ids, data.images, labels, {})
    color = measure(oracle, strange, spec, larger_px=())["heads"]["color"]
    for name in ("accuracy", "top_3_accuracy", "macro_f1"):
        assert color[name]["value"] == 0


def test_classes_that_the_model_lacks_are_counted_most_frequent_first():
    labels = np.array(["Teal", "Red", "Lime", "Lime"])
    assert unknown_classes(labels, ("Black", "Red")) == {"Lime": 2, "Teal": 1}


def test_any_number_of_images_is_inferred_in_order():
    def infer(images):
        assert len(images) <= 256
        return {"color": images[:, 0, 0, :1].astype(np.float32)}

    images = np.arange(600).astype(np.uint8).reshape(600, 1, 1, 1)
    np.testing.assert_array_equal(infer_all(infer, images)["color"][:, 0], np.arange(600) % 256)


@pytest.mark.parametrize(("width_px", "height_px"), [(225, 300), (1080, 1440)])
def test_an_enlarged_photo_decodes_to_nearly_the_same_image(width_px, height_px):
    image = np.asarray(draw_garment("Handbags", "Red"))
    again = decode(enlarge(image, width_px, height_px), SIZE)
    assert np.abs(again.astype(int) - image).mean() < 4


def test_a_confusion_picture_shows_every_class_that_occurs(tmp_path):
    truth = np.array([0, 0, 1, 3, -1])
    guess = np.array([0, 1, 1, 2, 0])
    path = tmp_path / "confusion-color.png"
    draw_confusion(truth, guess, ("Black", "$Red$ \\frac", "White", "Yellow"), "$ of \udcff", path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 400

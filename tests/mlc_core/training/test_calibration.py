"""Claims about calibration: confidences are shares of right labels, and promises hold."""

import numpy as np
import pytest

from mlc_core.labels import Labeller
from mlc_core.spec import ImageSize, Spec
from mlc_core.training.calibration import (
    PRECISIONS,
    calibrate,
    fit_temperature,
    fit_thresholds,
    learn_taxonomy,
)
from mlc_core.training.dataset import DataSet, read_dataset
from mlc_core.training.evaluation import (
    calibration_error,
    confusions,
    hierarchical_f1,
    infer_all,
    per_class,
    reliability,
)


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def sample(photos, seed=0, sharpness=1.0):
    """Logits, and labels drawn from the probabilities that they stand for."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2.5, (photos, 6))
    likely = softmax(logits)
    truth = (likely.cumsum(axis=1) < rng.random((photos, 1))).sum(axis=1).clip(max=5)
    return softmax(logits * sharpness), truth


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_a_temperature_undoes_how_much_too_sure_a_head_is(sharpness):
    probabilities, truth = sample(4000, sharpness=sharpness)
    assert fit_temperature(probabilities, truth) == pytest.approx(sharpness, rel=0.07)


def test_photos_of_unknown_classes_do_not_change_a_temperature():
    probabilities, truth = sample(500)
    with_unknown = np.concatenate([truth, np.full(50, -1)])
    more = np.concatenate([probabilities, probabilities[:50]])
    assert fit_temperature(more, with_unknown) == fit_temperature(probabilities, truth)
    assert fit_temperature(probabilities, np.full(500, -1)) == 1


def test_a_promised_precision_holds_on_other_photos():
    broken = checked = 0
    for seed in range(40):
        probabilities, truth = sample(3000, seed)
        right = probabilities.argmax(axis=1) == truth
        thresholds = fit_thresholds(probabilities.max(axis=1), right)
        others, their_truth = sample(4000, 1000 + seed)
        for precision, least in thresholds.items():
            sure = others.max(axis=1) >= (2 if least is None else least)
            if sure.sum() > 100:
                checked += 1
                found = (others.argmax(axis=1) == their_truth)[sure].mean()
                broken += found < precision - 0.01
    assert checked > 100
    assert broken < 0.05 * checked


def test_a_lower_precision_gives_as_many_labels_or_more():
    probabilities, truth = sample(2000)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    thresholds = fit_thresholds(confidence, right)
    assert list(thresholds) == list(PRECISIONS)
    least = [2.0 if each is None else each for each in thresholds.values()]
    assert least == sorted(least)


def test_a_precision_that_too_few_photos_prove_is_not_promised():
    right = np.ones(10, bool)
    thresholds = fit_thresholds(np.full(10, 0.9, np.float32), right)
    assert thresholds[0.99] is None
    # All of 10 right: at least 0.1 ** (1 / 10) with a risk of a tenth.
    assert 0.1 ** (1 / 10) < 0.8
    assert thresholds[0.8] is None
    assert fit_thresholds(np.full(300, 0.9, np.float32), np.ones(300, bool))[
        0.99
    ] == 0.9 - 1e-5 or (
        fit_thresholds(np.full(300, 0.9, np.float32), np.ones(300, bool))[0.99]
    ) == pytest.approx(0.9, abs=1e-4)
    assert set(fit_thresholds(np.full(300, 0.9, np.float32), np.zeros(300, bool)).values()) == {
        None
    }


def test_labels_of_equal_confidence_are_promised_together():
    confidence = np.repeat(np.float32([0.9, 0.8]), 200)
    right = np.concatenate([np.ones(200, bool), np.arange(200) < 100])  # the first ones are right
    assert fit_thresholds(confidence, right)[0.95] == pytest.approx(0.9, abs=1e-4)


def test_the_calibration_error_is_the_mean_gap_over_bins():
    confidence = np.float32([0.91, 0.93, 0.52, 0.54])
    right = np.array([True, False, True, True])
    # Two bins of two: |0.92 - 0.5| and |0.53 - 1|.
    assert calibration_error(confidence, right) == pytest.approx((0.42 + 0.47) / 2, abs=1e-6)
    assert calibration_error(np.float32([1.0]), np.array([True])) == 0


def test_chance_alone_explains_the_error_of_a_calibrated_head():
    probabilities, truth = sample(3000)
    named = probabilities.argmax(axis=1)
    familiar = np.arange(3000) >= 100
    measured = reliability(probabilities, named, truth, {0.9: 0.8, 0.99: None}, familiar)
    error = measured["calibration_error"]
    assert error["value"] < 2 * error["by_chance"]
    sure = familiar & (probabilities.max(axis=1) >= 0.8)
    assert measured["precisions"]["0.9"] == {
        "coverage": pytest.approx(sure.mean(), abs=1e-4),
        "precision": pytest.approx((named == truth)[sure].mean(), abs=1e-4),
    }
    assert measured["precisions"]["0.99"] == {"coverage": 0.0, "precision": None}


def test_every_class_has_precision_recall_and_support():
    truth, named = np.array([0, 0, 0, 1, 3]), np.array([0, 0, 1, 1, 2])
    assert per_class(truth, named, ("a", "b", "c", "d", "e")) == {
        "a": {"precision": 1.0, "recall": 0.6667, "support": 3},
        "b": {"precision": 0.5, "recall": 1.0, "support": 1},
        "d": {"precision": None, "recall": 0.0, "support": 1},
        "c": {"precision": 0.0, "recall": None, "support": 0},
    }


def test_the_commonest_confusions_come_first():
    truth, named = np.array([0, 0, 1, 1, 1, 2]), np.array([1, 1, 0, 1, 1, 2])
    assert confusions(truth, named, ("a", "b", "c")) == [
        {"label": "a", "named": "b", "photos": 2},
        {"label": "b", "named": "a", "photos": 1},
    ]


def test_a_class_counts_in_hierarchical_f1_only_below_right_ones():
    truth = [np.array([0, 0, 0]), np.array([0, 0, 0]), np.array([0, 0, 0])]
    named = [np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([0, 0, 0])]
    assert hierarchical_f1(truth, named) == pytest.approx((3 + 1 + 0) / 9)


LABELS = {
    "master_category": np.array(["Apparel", "Apparel", "Footwear"]),
    "category": np.array(["Shirts", "Shirts", "Heels"]),
    "color": np.array(["Red", "Black", "Red"]),
}


def test_the_taxonomy_is_what_occurs():
    heads = {head: tuple(sorted(set(labels))) for head, labels in LABELS.items()}
    spec = Spec("shop", "1", ImageSize(4, 3), heads)
    data = DataSet(np.array(["1", "2", "3"]), np.zeros((3, 4, 3, 3), np.uint8), LABELS, {})
    assert learn_taxonomy(spec, data) == (("Apparel", "Shirts"), ("Footwear", "Heels"))
    assert learn_taxonomy(spec.part(["color", "category"]), data) == ()


@pytest.mark.long
def test_a_network_answers_with_the_confidences_that_were_fitted(drawn):
    from mlc_core.training.network import MultiHeadNetwork  # noqa: PLC0415  (Keras takes seconds)

    data = read_dataset(drawn, ImageSize(height_px=40, width_px=30))
    spec = Spec("drawn", "1", ImageSize(height_px=40, width_px=30), data.classes())
    model = MultiHeadNetwork(spec).build_model()
    before = infer_all(model.predict_on_batch, data.images)
    calibrated = calibrate(model, spec, data, data)
    after = infer_all(model.predict_on_batch, data.images)
    for head in spec.heads:
        temperature = calibrated.temperatures[head]
        expected = softmax(np.log(before[head]) / temperature)
        np.testing.assert_allclose(after[head], expected, atol=1e-4)
        assert set(calibrated.thresholds[head]) == set(PRECISIONS)
    assert 0.95 < Labeller(calibrated).familiar(after).mean() < 1
    assert len(calibrated.taxonomy) == 5

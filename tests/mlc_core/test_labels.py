"""Claims about how probabilities become an answer."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from mlc_core.labels import Choice, Labeller, blank, entropy, noise
from mlc_core.spec import ImageSize, Spec
from samples.garments import draw_garment

SPEC = Spec(
    "shop",
    "7",
    ImageSize(80, 60),
    {"color": ("Navy Blue", 'Off "White"', "Grün"), "category": ("Shirt", "Shoe")},
)
PROBABILITIES = {
    "category": np.float32([[0.75, 0.25], [0.5, 0.5]]),
    "color": np.float32([[0.1, 0.7, 0.2], [0.3, 0.3, 0.4]]),
}


def answers(*choices):
    return [json.loads(a) for a in Labeller(SPEC).answers(PROBABILITIES, choices)]


def test_an_answer_names_its_model_and_the_best_class_of_each_head_in_order():
    first, _ = answers(Choice(), Choice())
    assert first["model"] == {"name": "shop", "version": "7"}
    assert list(first["labels"]) == ["color", "category"]
    assert first["labels"]["color"] == {
        "label": 'Off "White"', "confidence": 0.7, "alternatives": []
    }  # fmt: skip


def test_probabilities_are_those_of_all_classes_in_the_order_of_the_spec():
    first, second = answers(Choice(probabilities=True), Choice())
    assert first["labels"] == {}
    assert "probabilities" not in second
    assert list(first["probabilities"]) == ["color", "category"]
    for head, text in first["probabilities"].items():
        found = np.frombuffer(base64.b64decode(text), "<f4")
        assert np.array_equal(found, PROBABILITIES[head][0])


@pytest.mark.parametrize(("top_k", "alternatives"), [(1, 0), (2, 1), (3, 2), (20, 2)])
def test_alternatives_are_one_fewer_than_top_k_and_than_classes(top_k, alternatives):
    first, second = answers(Choice(top_k), Choice(top_k))
    assert len(first["labels"]["color"]["alternatives"]) == alternatives
    named = [a["label"] for a in second["labels"]["color"]["alternatives"]]
    assert named == ["Navy Blue", 'Off "White"'][:alternatives]


def test_a_head_below_the_wanted_confidence_answers_null():
    first, _ = answers(Choice(min_confidence=0.72), Choice())
    assert first["labels"]["color"]["label"] is None
    assert first["labels"]["color"]["confidence"] == 0.7
    assert first["labels"]["category"]["label"] == "Shirt"


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_the_label_that_was_not_sure_enough_comes_first_among_the_alternatives(top_k):
    first, _ = answers(Choice(top_k, min_confidence=0.72), Choice())
    alternatives = first["labels"]["color"]["alternatives"]
    assert [each["label"] for each in alternatives] == ['Off "White"', "Grün", "Navy Blue"][:top_k]
    assert alternatives[0]["confidence"] == first["labels"]["color"]["confidence"]


PROMISING = replace(
    SPEC,
    thresholds={"color": {0.8: 0.3, 0.9: 0.5, 0.95: None}, "category": {0.9: 0.6, 0.95: 0.76}},
)


def labels(choice, spec=PROMISING):
    first, second = map(json.loads, Labeller(spec).answers(PROBABILITIES, [choice, choice]))
    return [[each["labels"][head]["label"] for head in ("color", "category")]
            for each in (first, second)]  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "first", "second"),
    [
        (0, ['Off "White"', "Shirt"], ["Grün", "Shirt"]),
        (0.5, ['Off "White"', "Shirt"], ["Grün", None]),  # the thresholds of 0.8 and 0.9
        (0.9, ['Off "White"', "Shirt"], [None, None]),
        (0.91, [None, None], [None, None]),  # those of 0.95
        (0.99, [None, None], [None, None]),  # above all
    ],
)
def test_a_head_that_lacks_the_precision_answers_null(precision, first, second):
    assert labels(Choice(precision=precision)) == [first, second]


def test_both_a_confidence_and_a_precision_must_be_reached():
    assert labels(Choice(min_confidence=0.72, precision=0.9))[0] == [None, "Shirt"]
    assert labels(Choice(min_confidence=0.1, precision=0.9))[1] == [None, None]


def test_a_photo_in_doubt_is_promised_nothing_and_keeps_its_labels():
    # Of the heads of the hierarchy, this model has category alone.
    assert entropy([PROBABILITIES["category"]]) == pytest.approx([0.5623, 0.6931], abs=1e-4)
    doubtful = replace(PROMISING, max_entropy=0.6)
    assert labels(Choice(precision=0.8), doubtful) == [['Off "White"', "Shirt"], [None, None]]
    assert labels(Choice(min_confidence=0.1), doubtful)[1] == ["Grün", "Shirt"]
    (_, second) = Labeller(doubtful).answers(PROBABILITIES, [Choice(precision=0.8)] * 2)
    assert json.loads(second)["labels"]["color"]["alternatives"][0]["label"] == "Grün"


def test_noise_is_promised_nothing():
    rng = np.random.default_rng(0)
    garment = np.asarray(draw_garment("Tshirts", "Red"))
    grain = rng.integers(0, 256, garment.shape)
    images = np.stack([grain, 0.2 * garment + 0.8 * grain, 0.8 * garment + 0.2 * grain])
    assert noise(images.astype(np.uint8)).tolist() == [True, True, False]
    (first,) = Labeller(PROMISING).answers(
        {head: rows[:1] for head, rows in PROBABILITIES.items()},
        [Choice(precision=0.8)],
        images=images[:1].astype(np.uint8),
    )
    assert {label["label"] for label in json.loads(first)["labels"].values()} == {None}


def test_a_blank_photo_is_promised_nothing():
    images = np.full((2, 80, 60, 3), (200, 30, 40), np.uint8)
    images[1, 79, 59] += 30  # a single pixel
    assert blank(images).tolist() == [True, False]
    choices = [Choice(precision=0.8), Choice(precision=0.5)]
    first, second = map(
        json.loads, Labeller(PROMISING).answers(PROBABILITIES, choices, None, images)
    )
    assert {label["label"] for label in first["labels"].values()} == {None}
    assert second["labels"]["color"]["label"] == "Grün"


def test_a_label_without_the_precision_is_still_the_first_alternative():
    (first, _) = Labeller(PROMISING).answers(PROBABILITIES, [Choice(2, precision=0.95)] * 2)
    color = json.loads(first)["labels"]["color"]
    assert [each["label"] for each in color["alternatives"]] == ['Off "White"', "Grün"]


def test_a_model_without_thresholds_refuses_a_precision_and_says_what_to_do():
    refused = Labeller(SPEC).refusal(Choice(precision=0.9))
    assert "shop 7 has no thresholds" in str(refused)
    assert "send min_confidence" in str(refused)
    assert Labeller(SPEC).refusal(Choice(min_confidence=0.9)) is None
    assert Labeller(PROMISING).refusal(Choice(precision=0.9)) is None


def test_equal_probabilities_never_name_a_class_twice():
    _, second = answers(Choice(), Choice(2))
    category = second["labels"]["category"]
    assert [category["label"], category["alternatives"][0]["label"]] == ["Shirt", "Shoe"]

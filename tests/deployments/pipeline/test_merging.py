"""Claims about putting the answers of several classifiers together."""

import json

import pytest

from deployments.errors import DeadlinePassed
from deployments.pipeline.merging import merge_descriptions, merge_outcomes


def answer(name, **labels):
    model = {"name": name, "version": "1"}
    return json.dumps({"model": model, "labels": labels}, ensure_ascii=False).encode()


def model(name, *heads, precision="int8"):
    return {
        "name": name,
        "version": "2",
        "engine": "onnxruntime",
        "precision": precision,
        "image": {"height_px": 80, "width_px": 60},
        "heads": {head: ["a", "b"] for head in heads},
        "thresholds": {head: {0.9: 0.7, 0.95: None} for head in heads},
        "taxonomy": None,
        "profiles": {"shop": {head: ["a word"] for head in heads}},
        "metrics": {"heads": {head: {} for head in heads}},
        "refused_update": None,
    }


def test_one_answer_stays_byte_for_byte():
    body = answer("fashion", color={"label": "Écru", "confidence": 0.5000})
    assert merge_outcomes([body]) is body


def test_labels_of_all_stand_under_the_names_of_all():
    merged = merge_outcomes([answer("c", color={"label": "Écru"}), answer("k", category=None)])
    assert json.loads(merged) == {
        "model": {"name": "c+k", "version": "1+1"},
        "labels": {"color": {"label": "Écru"}, "category": None},
    }
    assert "Écru".encode() in merged


def test_probabilities_of_all_stand_side_by_side():
    parts = [
        json.dumps(json.loads(answer(name)) | {"probabilities": {head: "AACAPw=="}}).encode()
        for name, head in (("c", "color"), ("k", "category"))
    ]
    merged = json.loads(merge_outcomes(parts))
    assert merged["probabilities"] == {"color": "AACAPw==", "category": "AACAPw=="}


def test_an_error_of_one_is_the_answer():
    error = DeadlinePassed("late")
    assert merge_outcomes([answer("c", color={}), error]) is error


def test_two_that_name_the_same_head_are_refused_with_what_to_do():
    (error,) = [merge_outcomes([answer("c", color={}), answer("d", color={})])]
    assert isinstance(error, ValueError)
    assert "`classifiers` in the Serve config" in str(error)
    with pytest.raises(ValueError, match="same head"):
        merge_descriptions([model("c", "color"), model("d", "color")])


def test_models_are_described_as_one():
    merged = merge_descriptions([model("c", "color"), model("k", "category", precision="float32")])
    assert merged["name"] == "c+k"
    assert merged["version"] == "2+2"
    assert (merged["engine"], merged["precision"]) == ("onnxruntime", "int8+float32")
    assert list(merged["heads"]) == ["color", "category"]
    assert merged["thresholds"]["category"] == {0.9: 0.7, 0.95: None}
    assert merged["taxonomy"] is None
    assert list(merged["profiles"]["shop"]) == list(merged["heads"])
    assert merged["metrics"]["k"] == {"heads": {"category": {}}}


def test_an_update_that_one_classifier_refused_is_told():
    refused = model("k", "category") | {"refused_update": "no model at nowhere"}
    merged = merge_descriptions([model("c", "color"), refused])
    assert merged["refused_update"] == "no model at nowhere"

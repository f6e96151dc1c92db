"""Claims about a merchant's own words for the classes of a model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlc_core.arguments import MODEL, PROJECT
from mlc_core.artifact import load_artifact
from mlc_core.errors import ProfileError
from mlc_core.labels import Choice, Labeller
from mlc_core.profiles import read_profile
from mlc_core.spec import ImageSize, Spec

SPEC = Spec(
    "shop",
    "7",
    ImageSize(80, 60),
    {
        "color": ("Blue", "Navy Blue", "Red", "Skin"),
        "master_category": ("Apparel", "Footwear"),
        "category": ("Heels", "Sandals", "Shirts", "Tops"),
    },
    taxonomy=(
        ("Apparel", "Shirts"),
        ("Apparel", "Tops"),
        ("Footwear", "Heels"),
        ("Footwear", "Sandals"),
    ),
)
PROBABILITIES = {
    "color": np.float32([[0.3, 0.25, 0.35, 0.1], [0.1, 0.1, 0.1, 0.7]]),
    "master_category": np.float32([[0.9, 0.1], [0.45, 0.55]]),
    "category": np.float32([[0.1, 0.1, 0.5, 0.3], [0.3, 0.29, 0.4, 0.01]]),
}


def profile(tmp_path, text, spec=SPEC, name="shop.yaml"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return read_profile(file, spec)


def labels(profiles, *choices):
    answers = Labeller(SPEC, profiles).answers(PROBABILITIES, choices)
    return [json.loads(answer)["labels"] for answer in answers]


def test_classes_of_one_word_add_their_probabilities(tmp_path):
    merged = profile(tmp_path, "color: {Navy Blue: Blue}")
    own, _ = labels([merged], Choice(), Choice())
    words, _ = labels([merged], Choice(top_k=3, profile="shop"), Choice())
    assert own["color"]["label"] == "Red"
    assert words["color"] == {
        "label": "Blue",
        "confidence": 0.55,
        "alternatives": [
            {"label": "Red", "confidence": 0.35},
            {"label": "Skin", "confidence": 0.1},
        ],
    }


def test_a_hidden_class_is_never_named_and_no_other_takes_its_place(tmp_path):
    hiding = profile(tmp_path, "color: {Skin: null, Navy Blue: Blue}")
    choice = Choice(profile="shop")
    _, second = labels([hiding], choice, choice)
    assert second["color"] == {
        "label": None,
        "confidence": 0.7,
        "alternatives": [{"label": "Blue", "confidence": 0.2}],
    }
    _, second = labels([hiding], choice, Choice(top_k=4, profile="shop"))
    assert [each["label"] for each in second["color"]["alternatives"]] == ["Blue", "Red"]


def test_consistent_labels_are_a_path_of_the_merged_words(tmp_path):
    """Neither heel nor sandal is as probable as a shirt, but together they are footwear."""
    merged = profile(tmp_path, "category: {Heels: Schuhe, Sandals: Schuhe}")
    own, _ = labels([merged], Choice(), Choice())
    _, words = labels([merged], Choice(), Choice(profile="shop"))
    assert words["master_category"]["label"] == "Footwear"
    assert words["category"] == {"label": "Schuhe", "confidence": 0.59, "alternatives": []}
    assert own["category"]["label"] == "Shirts"
    assert merged.spec.taxonomy == (
        ("Apparel", "Shirts"), ("Apparel", "Tops"), ("Footwear", "Schuhe")
    )  # fmt: skip


def test_photos_of_one_batch_may_have_different_words(tmp_path):
    german = profile(tmp_path, "color: {Red: Rot}", name="de.yaml")
    french = profile(tmp_path, "color: {Red: Rouge, Skin: Chair}", name="fr.yaml")
    first, second = labels([german, french], Choice(profile="de"), Choice(profile="fr"))
    assert (first["color"]["label"], second["color"]["label"]) == ("Rot", "Chair")


def test_a_precision_is_promised_to_the_same_photos_under_any_words(tmp_path):
    doubtful = replace(SPEC, thresholds={"color": {0.8: 0.3}}, max_entropy=1.0)
    merged = profile(tmp_path, "category: {Heels: Shoes, Sandals: Shoes, Tops: Shirts}", doubtful)
    chosen = [Choice(precision=0.8), Choice(precision=0.8, profile="shop")]
    rows = {head: values[[1, 1]] for head, values in PROBABILITIES.items()}
    own, words = map(json.loads, Labeller(doubtful, [merged]).answers(rows, chosen))
    assert own["labels"]["color"]["label"] is None  # its entropy is above what is familiar
    assert words["labels"]["color"]["label"] is None


@pytest.mark.parametrize(
    ("blue", "navy", "red", "own", "word"),
    [
        (0.55, 0.30, 0.10, "Blue", "Blue"),
        (0.45, 0.40, 0.10, None, None),  # neither class reaches the threshold by itself
        (0.30, 0.25, 0.35, None, None),
        (0.10, 0.55, 0.30, "Navy Blue", "Blue"),
    ],
)
def test_a_merged_word_has_the_precision_that_a_class_of_it_has(
    tmp_path, blue, navy, red, own, word
):
    promising = replace(SPEC, thresholds={"color": {0.9: 0.5}})
    merged = profile(tmp_path, "color: {Navy Blue: Blue}", promising)
    rows = {head: values[[0, 0, 0]] for head, values in PROBABILITIES.items()}
    rows["color"] = np.float32([[blue, navy, red, 1 - blue - navy - red]] * 3)
    choices = [Choice(precision=0.9), Choice(precision=0.9, profile="shop"), Choice(profile="shop")]
    labels = [
        json.loads(each)["labels"]["color"]
        for each in Labeller(promising, [merged]).answers(rows, choices)
    ]
    assert [each["label"] for each in labels] == [own, word, "Blue"]
    assert labels[1]["confidence"] == labels[2]["confidence"] == pytest.approx(blue + navy)


def test_a_word_that_outdoes_the_label_of_the_model_has_no_precision(tmp_path):
    promising = replace(SPEC, thresholds={"color": {0.8: 0.3}})
    merged = profile(tmp_path, "color: {Navy Blue: Blue}", promising)
    choices = [Choice(precision=0.8), Choice(precision=0.8, profile="shop")]
    rows = {head: values[[0, 0]] for head, values in PROBABILITIES.items()}
    own, words = map(json.loads, Labeller(promising, [merged]).answers(rows, choices))
    assert own["labels"]["color"]["label"] == "Red"
    assert words["labels"]["color"]["label"] is None
    assert words["labels"]["color"]["alternatives"][0] == {"label": "Blue", "confidence": 0.55}


def test_a_photo_with_a_profile_is_labelled_once(tmp_path, monkeypatch):
    written, write = [], Labeller._label
    monkeypatch.setattr(Labeller, "_label", lambda *args: written.append(args[1]) or write(*args))
    labels([profile(tmp_path, "color: {Red: Rot}")], *[Choice(top_k=2, profile="shop")] * 2)
    assert written == list(SPEC.heads) * 2


def test_an_unknown_profile_is_refused_with_the_names_that_there_are(tmp_path):
    labeller = Labeller(SPEC, [profile(tmp_path, "color: {Red: Rot}", name="de.yaml")])
    assert "there is no profile 'fr'" in str(labeller.refusal(Choice(profile="fr")))
    assert "there is de." in str(labeller.refusal(Choice(profile="fr")))
    assert "Send `profile=` for the model's own" in str(labeller.refusal(Choice(profile="fr")))
    assert labeller.refusal(Choice(profile="de")) is None


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        (
            "color:\n  Red: Rot\n  Navi Blue: Blau",
            3,
            "no class 'Navi Blue'; did you mean Navy Blue",
        ),
        ("colour:\n  Red: Rot", 1, "no head 'colour'; did you mean color"),
        ("color:\n  Red: Rot\n  Red: Rouge", 3, "'Red' is in line 2 already"),
        ("color:\n  Red: no", 2, "the word of 'Red' is no text; put it in quotes"),
        ("color:\n  Red: [Rot]", 2, "the word of 'Red' is no text"),
        ("color:\n  Red: ''", 2, "must have 1 to 200 printable characters"),
        ("color:\n  5: Rot", 2, "the key '5' is no text; put it in quotes"),
        ("color:\n  - Red", 2, "expected a mapping of classes and their words"),
        ("- color", 1, "expected a mapping of heads"),
        ("", 1, "expected a mapping of heads"),
        ("color:\n  Red: 'Rot", 2, "not YAML"),
        ("\nmaster_category: {Apparel: null, Footwear: null}", 2, "hides every class"),
        ("master_category: {Apparel: Mode, Footwear: Mode}", 1, "one word for all"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, line, fault):
    with pytest.raises(ProfileError) as error:
        profile(tmp_path, text)
    assert f"shop.yaml:{line}: " in str(error.value)
    assert fault in str(error.value)


def test_a_file_that_is_missing_or_badly_named_is_refused(tmp_path):
    with pytest.raises(ProfileError, match="can't be read"):
        read_profile(tmp_path / "none.yaml", SPEC)
    with pytest.raises(ProfileError, match="which must be 1 to 63 letters"):
        profile(tmp_path, "color: {Red: Rot}", name="a b.yaml")
    (tmp_path / "odd.yaml").write_bytes(b"color: {Red: \xff}")
    with pytest.raises(ProfileError, match="UTF-8"):
        read_profile(tmp_path / "odd.yaml", SPEC)


@pytest.mark.parametrize("file", sorted((PROJECT / "configs/profiles").glob("*.yaml")), ids=Path)
def test_the_profiles_that_ship_fit_the_model_that_ships(file):
    spec = load_artifact(MODEL).spec
    words = read_profile(file, spec).spec
    assert words.heads["color"] == spec.heads["color"]
    google = [each for each in words.heads["category"] if each]
    assert len(google) == 80
    assert all(" > " in each for each in google)

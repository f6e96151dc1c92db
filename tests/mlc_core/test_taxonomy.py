"""Claims about labels that agree: they are the most probable path of the taxonomy."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from mlc_core.errors import ArtifactError
from mlc_core.labels import Choice, Labeller
from mlc_core.spec import ImageSize, Spec
from mlc_core.taxonomy import WEIGHTS, Taxonomy

PATHS = (
    ("Apparel", "Topwear", "Shirts"),
    ("Apparel", "Topwear", "Tshirts"),
    ("Footwear", "Shoes", "Heels"),
    ("Footwear", "Sandal", "Heels"),
)
SPEC = Spec(
    "shop",
    "7",
    ImageSize(80, 60),
    {
        "color": ("Black", "Red"),
        "master_category": ("Apparel", "Footwear"),
        "sub_category": ("Sandal", "Shoes", "Topwear"),
        "category": ("Heels", "Shirts", "Tshirts"),
    },
    taxonomy=PATHS,
)


def drawn(photos, seed=0):
    rng = np.random.default_rng(seed)
    return {
        head: rng.dirichlet(np.ones(len(classes)) / 2, photos).astype(np.float32)
        for head, classes in SPEC.heads.items()
    }


def own(probabilities):
    return {head: rows.argmax(axis=1) for head, rows in probabilities.items()}


def test_of_all_paths_the_one_with_the_largest_weighted_product_is_named():
    probabilities = drawn(500)
    named = Taxonomy(SPEC).agree(probabilities, own(probabilities))
    for row in range(500):
        products = [
            np.prod([float(probabilities[head][row, SPEC.heads[head].index(name)]) ** WEIGHTS[head]
                     for head, name in zip(SPEC.hierarchy, path, strict=True)])
            for path in PATHS
        ]  # fmt: skip
        found = tuple(SPEC.heads[head][named[head][row]] for head in SPEC.hierarchy)
        assert found == PATHS[int(np.argmax(products))]


def test_no_answer_names_a_path_outside_the_taxonomy():
    probabilities = drawn(500)
    before = own(probabilities)
    taxonomy = Taxonomy(SPEC)
    assert 0.1 < taxonomy.contains(before).mean() < 0.9
    assert taxonomy.contains(taxonomy.agree(probabilities, before)).all()


def test_heads_outside_the_hierarchy_and_photos_that_agree_stay_as_they_are():
    probabilities = drawn(500)
    before = own(probabilities)
    after = Taxonomy(SPEC).agree(probabilities, before)
    np.testing.assert_array_equal(after["color"], before["color"])
    already = Taxonomy(SPEC).contains(before)
    for head in SPEC.hierarchy:
        np.testing.assert_array_equal(after[head][already], before[head][already])
        np.testing.assert_array_equal(before[head], probabilities[head].argmax(axis=1))


def test_probabilities_that_are_0_name_a_path_too():
    probabilities = {
        head: np.eye(1, len(classes), dtype=np.float32) for head, classes in SPEC.heads.items()
    }  # Apparel, Sandal, Heels
    named = Taxonomy(SPEC).agree(probabilities, own(probabilities))
    assert [SPEC.heads[head][named[head][0]] for head in SPEC.hierarchy] == list(PATHS[3])


@pytest.fixture
def answers():
    probabilities = {
        "color": np.float32([[0.9, 0.1]] * 2),
        "master_category": np.float32([[0.6, 0.4]] * 2),
        "sub_category": np.float32([[0.1, 0.7, 0.2]] * 2),
        "category": np.float32([[0.8, 0.15, 0.05]] * 2),
    }

    def answers(*choices):
        return [
            json.loads(answer)["labels"]
            for answer in Labeller(SPEC).answers(probabilities, choices)
        ]

    return answers


def test_consistent_labels_have_the_confidence_of_their_own_class(answers):
    agreeing, apart = answers(Choice(2), Choice(2, consistent=False))
    assert agreeing["master_category"] == {
        "label": "Footwear", "confidence": 0.4,
        "alternatives": [{"label": "Apparel", "confidence": 0.6}],
    }  # fmt: skip
    assert apart["master_category"] == {
        "label": "Apparel", "confidence": 0.6,
        "alternatives": [{"label": "Footwear", "confidence": 0.4}],
    }  # fmt: skip
    assert agreeing["sub_category"] == apart["sub_category"]


def test_a_class_is_named_once_whatever_is_asked(answers):
    for top_k, least, consistent in product((1, 2, 3), (0.0, 0.5, 0.95), (True, False)):
        labels, _ = answers(Choice(top_k, least, consistent=consistent), Choice())
        for label in labels.values():
            named = [label["label"], *(each["label"] for each in label["alternatives"])]
            named = [each for each in named if each is not None]
            assert len(set(named)) == len(named)
            assert label["confidence"] >= least or label["label"] is None


def test_a_model_without_a_taxonomy_names_each_heads_own_class():
    probabilities = drawn(50)
    plain = Labeller(replace(SPEC, taxonomy=()))
    named = plain.name(probabilities, [Choice()] * 50)
    for head, classes in own(probabilities).items():
        np.testing.assert_array_equal(named[head], classes)


def test_two_heads_of_the_hierarchy_have_paths_of_two():
    heads = {head: SPEC.heads[head] for head in ("color", "master_category", "category")}
    part = Spec("shop", "7", SPEC.image, heads, taxonomy=(("Apparel", "Shirts"),))
    probabilities = {head: drawn(20)[head] for head in heads}
    named = Taxonomy(part).agree(probabilities, own(probabilities))
    assert set(named["master_category"]) == {0}
    assert set(named["category"]) == {1}


@pytest.mark.parametrize("path", [("Apparel", "Topwear"), ("Apparel", "Topwear", "Socks")])
def test_a_path_that_is_none_of_the_heads_is_refused(path):
    with pytest.raises(ArtifactError, match="is no path of the taxonomy"):
        replace(SPEC, taxonomy=(path,))


def test_a_spec_keeps_what_its_labels_promise():
    spec = replace(
        SPEC,
        temperatures={"color": 0.9},
        thresholds={"color": {0.9: 0.41, 0.95: None}},
        max_entropy=2.5,
    )
    assert Spec.from_json(spec.to_json()) == spec
    with pytest.raises(ArtifactError, match="no head 'size'"):
        replace(SPEC, temperatures={"size": 1.0})

"""Claims about what load tests send, and what they take for an answer."""

import io
import json
from collections import Counter

import pytest
from PIL import Image

from loadtest.traffic import Traffic, fault_of, fault_of_search, photos, version_of

HEADS = {"color": ["Red"], "category": ["Ties", "Heels"]}


def answer(color="Red", category="Ties"):
    labels = {"color": {"label": color}, "category": {"label": category}}
    return {"model": {"name": "fashion", "version": "7"}, "labels": labels}


def fault(status, body, good=(True,), many=False):
    return fault_of(status, json.dumps(body).encode(), good, HEADS, many=many)


def test_an_answer_with_labels_of_the_model_is_right():
    assert fault(200, answer()) is None


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (0, None, "no answer"),
        (503, {}, "refused: 503"),
        (429, {}, "refused: 429"),
        (500, {}, "status 500"),
        (200, {"labels": {}}, "not an answer"),
        (200, [], "not an answer"),
        (200, answer(color="Blue"), "labels of no class: color"),
    ],
)
def test_what_is_wrong_with_an_answer_is_told(status, body, said):
    assert said in fault(status, body)


def test_a_bad_photo_must_be_refused_as_bad():
    assert fault(415, {}, good=[False]) is None
    assert fault(422, {}, good=[False]) is None
    assert "answered 200" in fault(200, answer(), good=[False])
    assert "answered 500" in fault(500, {}, good=[False])


def test_each_photo_of_a_batch_is_judged_by_itself():
    mixed = {"results": [answer(), {"status": 415}]}
    assert fault(200, mixed, good=[True, False], many=True) is None
    assert "answered 200" in fault(200, {"results": [answer(), answer()]}, [True, False], many=True)
    assert "status 415" in fault(200, mixed, good=[True, True], many=True)
    assert "refused" in fault(200, {"results": [{"status": 503}]}, many=True)
    assert "1 results to 2 photos" in fault(200, {"results": [answer()]}, [True, True], many=True)


def test_an_answer_tells_its_version():
    assert version_of(json.dumps(answer()).encode()) == "7"
    assert version_of(b"no answer") == version_of(None) == ""


def test_popular_photos_are_asked_more_often_as_zipf_says():
    traffic = Traffic([b"%d" % n for n in range(100)], seed=1)
    asked = Counter(traffic.next_photo()[0] for _ in range(20_000))
    assert asked[b"0"] / asked[b"9"] == pytest.approx(10**0.8, rel=0.2)
    assert len(asked) == 100


def test_the_share_of_bad_photos_is_as_asked():
    traffic = Traffic(photos(None), bad_share=0.3, seed=1)
    sent = [traffic.next_photo() for _ in range(5000)]
    assert sum(not good for _, good in sent) / 5000 == pytest.approx(0.3, abs=0.03)


def test_drawn_photos_are_of_a_shops_sizes_and_formats_and_none_is_like_another():
    drawn = photos(None)
    kinds = Counter((image.format, image.size) for image in map(Image.open, map(io.BytesIO, drawn)))
    assert {kind for kind, _ in kinds} == {"JPEG", "PNG", "WEBP"}
    assert {size for _, size in kinds} == {(60, 80), (300, 400), (900, 1200)}
    assert len(set(drawn)) == len(drawn)


def test_a_directory_without_photos_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no photos; name another with --photos"):
        photos(str(tmp_path))
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        photos(str(tmp_path))


def found(*products):
    listed = [{"similarity": s, "labels": {"category": category}} for s, category in products]
    return json.dumps({"products": listed}).encode()


@pytest.mark.parametrize(
    ("body", "filtered", "said"),
    [
        (found((0.9, "Ties"), (0.8, "Heels")), False, None),
        (found((0.9, "Tshirts")), True, None),
        (found(), True, None),
        (found(), False, "no products; does the catalogue have any?"),
        (
            found((0.8, "Ties"), (0.9, "Heels")),
            False,
            "the most similar products do not come first",
        ),
        (found((0.9, "Ties")), True, "products that the filter excludes"),
        (b"{}", False, "no products: KeyError('products')"),
    ],
)
def test_what_is_wrong_with_a_search_is_told(body, filtered, said):
    assert fault_of_search(body, filtered=filtered) == said

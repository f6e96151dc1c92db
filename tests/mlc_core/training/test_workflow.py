"""Measuring a model on any labelled data set, without the photos it has seen."""

import csv
import json
import shutil

import numpy as np
import pytest

from mlc_core.artifact import Artifact, pack_ids
from mlc_core.errors import DataSetError
from mlc_core.spec import ImageSize, Spec
from mlc_core.training.workflow import evaluate_artifact, quantize_trained, read_and_split

SIZE = ImageSize(height_px=40, width_px=30)
SEED = 7


@pytest.fixture(scope="module")
def split(drawn):
    return read_and_split(drawn, SIZE, SEED)


@pytest.fixture(scope="module")
def spec(split):
    classes = split[0].classes()
    return Spec("drawn", "1", SIZE, {head: classes[head] for head in ("color", "category")})


@pytest.fixture
def artifact(split, spec, tmp_path):
    """What evaluation reads of an artifact that was trained on the drawn data set."""
    data, parts = split
    trained = {
        "data": {"photos": len(data), "digest": data.digest()},
        "split": {"seed": SEED},
    }
    path = tmp_path / "artifact"
    path.mkdir()
    seen = data.ids[np.concatenate([parts.train, parts.validation])]
    (path / "training_ids.txt.gz").write_bytes(pack_ids(seen.tolist()))
    return Artifact(path, spec, {"training": trained})


@pytest.fixture
def infer(spec):
    """Always names the first class of each head."""

    def infer(images):
        return {
            head: np.tile(np.eye(1, len(classes), dtype=np.float32), (len(images), 1))
            for head, classes in spec.heads.items()
        }

    return infer


@pytest.fixture
def own(drawn, tmp_path):
    """The drawn photos under ids that the model has not seen."""
    path = shutil.copytree(drawn, tmp_path / "own")
    for photo in list((path / "images").iterdir()):
        photo.rename(photo.with_name(f"own-{photo.name}"))
    edit_rows(path, lambda rows: [[f"own-{row[0]}", *row[1:]] for row in rows])
    return path


def edit_rows(path, edit):
    with (path / "styles.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    with (path / "styles.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *edit(rows)])


@pytest.mark.parametrize("digest", [True, False])
@pytest.mark.parametrize("ids", [True, False])
def test_on_the_data_set_of_the_training_the_test_split_is_measured(
    artifact, infer, drawn, split, tmp_path, digest, ids
):
    if not digest:
        del artifact.metrics["training"]["data"]["digest"]
    if not ids:
        (artifact.path / "training_ids.txt.gz").unlink()
    lines = []
    metrics = evaluate_artifact(artifact, infer, drawn, tmp_path / "out", lines.append)
    assert metrics["data"]["test_split"] is True
    assert metrics["test_photos"] == len(split[1].test)
    share = (split[0].labels["color"][split[1].test] == "Black").mean()
    assert metrics["heads"]["color"]["accuracy"]["value"] == pytest.approx(share, abs=1e-4)
    assert f"{drawn} is the data set of the training, so its test split is measured" in lines


def test_other_photos_are_all_measured(artifact, infer, own, tmp_path):
    lines = []
    metrics = evaluate_artifact(artifact, infer, own, tmp_path / "out", lines.append)
    assert metrics["test_photos"] == 240
    assert metrics["data"]["test_split"] is False
    assert metrics["data"]["left_out_as_seen"] == 0
    assert metrics["larger_photos"] == {}
    assert "left out 0 photos with ids of the training or validation split" in lines
    json.dumps(metrics)


def test_photos_the_model_has_seen_are_left_out_and_counted(
    artifact, infer, drawn, split, tmp_path
):
    other = shutil.copytree(drawn, tmp_path / "other")
    (other / "images" / "1000.jpg").unlink()
    lines = []
    metrics = evaluate_artifact(artifact, infer, other, tmp_path / "out", lines.append)
    seen = artifact.training_ids() - {"1000"}
    assert metrics["data"]["left_out_as_seen"] == len(seen)
    assert metrics["test_photos"] == 239 - len(seen)
    assert metrics["data"]["test_split"] is False
    (line,) = [line for line in lines if line.startswith("left out")]
    assert line.startswith(f"left out {len(seen)} photos with ids of the training or validation")
    assert "if they are other photos, give them other ids" in line


def test_an_artifact_without_ids_says_that_overlap_is_unknown(artifact, infer, own, tmp_path):
    (artifact.path / "training_ids.txt.gz").unlink()
    (own / "images" / "own-1000.jpg").unlink()
    lines = []
    metrics = evaluate_artifact(artifact, infer, own, tmp_path / "out", lines.append)
    assert metrics["test_photos"] == 239
    assert any("does not list the photos it was trained on" in line for line in lines)


def test_a_set_of_photos_that_were_all_seen_is_refused(artifact, infer, drawn, split, tmp_path):
    other = shutil.copytree(drawn, tmp_path / "other")
    seen = artifact.training_ids()
    edit_rows(other, lambda rows: [row for row in rows if row[0] in seen])
    with pytest.raises(DataSetError, match=f"ids of all {len(seen)} photos; name other photos"):
        evaluate_artifact(artifact, infer, other, tmp_path / "out", lambda _: None)


def test_as_many_photos_are_not_yet_the_data_set_of_the_training(artifact, infer, own, tmp_path):
    del artifact.metrics["training"]["data"]["digest"]
    metrics = evaluate_artifact(artifact, infer, own, tmp_path / "out", lambda _: None)
    assert metrics["data"]["photos"] == artifact.metrics["training"]["data"]["photos"]
    assert metrics["data"]["test_split"] is False


def test_classes_that_the_model_lacks_count_as_wrong_and_are_named(artifact, infer, own, tmp_path):
    def edit(rows):
        return [[*row[:4], "Lime" if row[4] == "Black" else row[4], *row[5:]] for row in rows]

    edit_rows(own, edit)
    lines = []
    metrics = evaluate_artifact(artifact, infer, own, tmp_path / "out", lines.append)
    assert metrics["heads"]["color"]["accuracy"]["value"] == 0
    assert metrics["data"]["unknown_classes"]["color"] == {"Lime": 30}
    assert "color: the model lacks these classes, their photos count as wrong: Lime 30" in lines


def test_a_head_of_which_no_class_is_known_is_measured_but_not_drawn(
    artifact, infer, own, tmp_path
):
    edit_rows(own, lambda rows: [[*row[:4], "Lime", *row[5:]] for row in rows])
    metrics = evaluate_artifact(artifact, infer, own, tmp_path / "out", lambda _: None)
    assert metrics["heads"]["color"]["macro_f1"]["value"] == 0
    drawn = {file.name for file in (tmp_path / "out").iterdir()}
    assert "confusion-color.png" not in drawn
    assert "confusion-category.png" in drawn


def test_only_heads_with_labels_are_measured(artifact, infer, own, tmp_path):
    table = (own / "styles.csv").read_text().replace("articleType", "kind", 1)
    (own / "styles.csv").write_text(table)
    lines = []
    metrics = evaluate_artifact(artifact, infer, own, tmp_path / "out", lines.append)
    assert list(metrics["heads"]) == ["color"]
    assert f"category is not measured: {own} has no labels of it" in lines
    assert not (tmp_path / "out" / "confusion-category.png").exists()


def test_a_single_photo_is_enough(artifact, infer, own, tmp_path):
    edit_rows(own, lambda rows: rows[:1])
    metrics = evaluate_artifact(artifact, infer, own, tmp_path / "out", lambda _: None)
    assert metrics["test_photos"] == 1


def test_int8_takes_no_other_data_set(artifact, own):
    with pytest.raises(DataSetError, match="is not the data set that"):
        quantize_trained(artifact, own, lambda _: None)

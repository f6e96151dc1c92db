"""Reading a data set: what counts, what is skipped, and that it decodes as serving does."""

import csv
import shutil

import numpy as np
import pytest

from mlc_core.errors import DataSetError
from mlc_core.photo import decode
from mlc_core.spec import ImageSize
from mlc_core.training.dataset import read_dataset
from samples.garments import CATEGORIES, COLORS

SIZE = ImageSize(height_px=40, width_px=30)


@pytest.fixture
def damaged(drawn, tmp_path):
    """A copy of the drawn data set whose rows a test may spoil."""
    return shutil.copytree(drawn, tmp_path / "damaged")


def edit_rows(path, edit):
    with (path / "styles.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    with (path / "styles.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(edit(rows))


def test_every_labelled_photo_is_read(drawn):
    data = read_dataset(drawn, SIZE)
    assert len(data) == 240
    assert data.images.shape == (240, 40, 30, 3)
    assert data.images.dtype == np.uint8
    assert data.skipped == {}
    classes = data.classes()
    assert classes["color"] == tuple(sorted(COLORS))
    assert classes["category"] == tuple(sorted(CATEGORIES))
    assert classes["master_category"] == ("Accessories", "Apparel", "Footwear")


def test_training_decodes_as_serving_does(drawn):
    data = read_dataset(drawn, SIZE)
    for at in (0, 100, 239):
        photo = (drawn / "images" / f"{data.ids[at]}.jpg").read_bytes()
        np.testing.assert_array_equal(data.images[at], decode(photo, SIZE))


@pytest.mark.parametrize("inside", ["", "fashion/"])
def test_a_zip_reads_as_its_directory(drawn, tmp_path, inside):
    (tmp_path / "tree" / inside).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(drawn, tmp_path / "tree" / inside, dirs_exist_ok=True)
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "tree")
    one, other = read_dataset(drawn, SIZE), read_dataset(archive, SIZE)
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels["category"], other.labels["category"])


def test_broken_photos_and_unlabelled_rows_are_reported_and_skipped(damaged):
    whole = (damaged / "images" / "1000.jpg").read_bytes()
    (damaged / "images" / "1000.jpg").write_bytes(whole[: len(whole) // 2])
    (damaged / "images" / "1001.jpg").write_bytes(b"not a photo")
    (damaged / "images" / "1002.jpg").unlink()

    def edit(rows):
        rows[4][4] = ""  # 1003: no colour
        rows[5][3] = "NA"  # 1004: no category
        rows[6][0] = "../../etc/passwd"  # instead of 1005
        return [*rows, rows[7], ["1006"]]

    edit_rows(damaged, edit)
    lines = []
    data = read_dataset(damaged, SIZE, lines.append)
    assert len(data) == 240 - 6
    assert data.skipped == {
        "UndecodablePhoto": 1,
        "UnsupportedFormat": 1,
        "id seen before": 2,
        "no category": 1,
        "no color": 1,
        "no id": 1,
        "no photo": 1,
    }
    assert "skipped 2 rows: id seen before" in lines


def test_a_comma_in_a_name_spoils_no_row(damaged):
    edit_rows(damaged, lambda rows: [[*row, "and more", "still more"] for row in rows])
    with (damaged / "styles.csv").open(encoding="utf-8") as file:
        assert file.readline().endswith("and more,still more\n")
    assert len(read_dataset(damaged, SIZE)) == 240


def test_a_missing_column_is_named(damaged):
    edit_rows(damaged, lambda rows: [[*row[:3], *row[4:]] for row in rows])
    with pytest.raises(DataSetError, match="articleType"):
        read_dataset(damaged, SIZE)


def test_a_data_set_without_a_usable_row_is_refused(damaged):
    shutil.rmtree(damaged / "images")
    with pytest.raises(DataSetError, match="no row"):
        read_dataset(damaged, SIZE)


def test_what_is_no_data_set_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "note.txt", tmp_path / "nothing"):
        with pytest.raises(DataSetError, match=str(path)):
            read_dataset(path, SIZE)

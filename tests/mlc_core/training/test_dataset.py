"""Reading a data set: what counts, what is skipped, and that it decodes as serving does."""

import csv
import shutil
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
        rows[9][0] = " "  # instead of 1008
        return [*rows, rows[7], ["1006"]]

    edit_rows(damaged, edit)
    lines = []
    data = read_dataset(damaged, SIZE, lines.append)
    assert len(data) == 240 - 7
    assert data.skipped == {
        "UndecodablePhoto": 1,
        "UnsupportedFormat": 1,
        "id is no file name": 1,
        "id seen before": 2,
        "no category": 1,
        "no color": 1,
        "no id": 1,
        "no photo": 1,
    }
    assert "skipped 2 rows: id seen before, as row 242 with id '1006'; rows 242–243" in lines
    assert "skipped 1 rows: no color, as row 5 with id '1003'" in lines
    assert lines[-1] == "233 usable photos"


def test_a_comma_in_a_name_spoils_no_row(damaged):
    edit_rows(damaged, lambda rows: [[*row, "and more", "still more"] for row in rows])
    with (damaged / "styles.csv").open(encoding="utf-8") as file:
        assert file.readline().endswith("and more,still more\n")
    assert len(read_dataset(damaged, SIZE)) == 240


def test_an_unquoted_comma_spoils_its_row_alone_where_the_last_column_is_a_label(damaged):
    def edit(rows):
        moved = [[row[0], row[5], *row[1:5]] for row in rows]
        moved[3] = [moved[3][0], "Shirt", "long", *moved[3][2:]]
        return moved

    edit_rows(damaged, edit)
    data = read_dataset(damaged, SIZE)
    assert data.skipped == {"more cells than columns": 1}
    assert len(data) == 239


def test_what_is_no_table_at_all_is_refused_in_one_line(damaged):
    for contents in (b"\x89PNG\r\n\x1a\n\0\0" + bytes(range(256)) * 900, b"<html>\n", b"", b"\0"):
        (damaged / "styles.csv").write_bytes(contents)
        with pytest.raises(DataSetError, match=r"lacks the column id|can't be read") as refused:
            read_dataset(damaged, SIZE)
        assert len(str(refused.value)) < 2000
        assert str(refused.value).isprintable()


def test_a_missing_column_is_named(damaged):
    edit_rows(damaged, lambda rows: [[*row[:3], *row[4:]] for row in rows])
    with pytest.raises(DataSetError, match="lacks the column articleType, it has id, masterCat"):
        read_dataset(damaged, SIZE)


def test_only_the_columns_of_the_asked_heads_are_read(damaged):
    edit_rows(damaged, lambda rows: [[row[0], "", row[4]] for row in rows[1:]])
    table = (damaged / "styles.csv").read_text()
    (damaged / "styles.csv").write_text("id,articleType,baseColour\n" + table)
    data = read_dataset(damaged, SIZE, heads=("color",))
    assert list(data.labels) == ["color"]
    assert len(data) == 240


@pytest.mark.parametrize("column", [True, False], ids=["empty", "missing"])
def test_heads_without_labels_are_left_out_on_request(damaged, column):
    def edit(rows):
        return [[*row[:2], *([row[2] if at == 0 else ""] if column else []), *row[3:]]
                for at, row in enumerate(rows)]  # fmt: skip

    edit_rows(damaged, edit)
    data = read_dataset(damaged, SIZE, all_heads=False)
    assert list(data.labels) == ["color", "master_category", "category"]
    assert len(data) == 240
    with pytest.raises(DataSetError, match=r"no sub_category|lacks the column subCategory"):
        read_dataset(damaged, SIZE)


def test_an_id_is_any_plain_file_name(damaged):
    ids = ["SKU-1000", "a.b c", "Größe_7", "..x"]

    def edit(rows):
        for row, new in zip(rows[1:], ids, strict=False):
            (damaged / "images" / f"{row[0]}.jpg").rename(damaged / "images" / f"{new}.jpg")
            row[0] = new
        return rows

    edit_rows(damaged, edit)
    assert set(ids) <= set(read_dataset(damaged, SIZE).ids)


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "None", "NULL", "NA", "n/a", " ", "<NA>", "#N/A", "\\N"]
)
def test_a_word_for_a_missing_label_is_no_class(damaged, word):
    def edit(rows):
        rows[1][4] = word
        return rows

    edit_rows(damaged, edit)
    assert read_dataset(damaged, SIZE).skipped == {"no color": 1}


def test_a_data_set_without_a_usable_row_is_refused_with_each_reason_and_an_example(damaged):
    shutil.rmtree(damaged / "images")

    def edit(rows):
        return [rows[0], *([*row[:4], "", *row[5:]] if at < 30 else row
                           for at, row in enumerate(rows[1:]))]  # fmt: skip

    edit_rows(damaged, edit)
    with pytest.raises(DataSetError) as refused:
        read_dataset(damaged, SIZE)
    text = str(refused.value)
    assert "30 rows: no color, as row 2 with id '1000'" in text
    assert "210 rows: no photo, as row 32 with id '1030'; rows 32–241" in text
    assert "a row needs an id, a photo images/<id>.jpg, and a label of color, master" in text


def test_a_table_without_rows_is_refused(damaged):
    edit_rows(damaged, lambda rows: rows[:1])
    with pytest.raises(DataSetError, match="it has none"):
        read_dataset(damaged, SIZE)


def test_what_is_no_data_set_is_refused_by_its_path(tmp_path):
    (tmp_path / "note.txt").write_text("hello")
    for path, reason in (
        (tmp_path, "no styles.csv in it"),
        (tmp_path / "note.txt", "neither a directory nor a zip"),
        (tmp_path / "nothing", "there is nothing at"),
    ):
        with pytest.raises(DataSetError, match=reason) as refused:
            read_dataset(path, SIZE)
        assert str(path) in str(refused.value)


@pytest.fixture
def packed(drawn, tmp_path):
    """The drawn data set as a zip whose bytes a test may spoil."""
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in sorted(drawn.rglob("*.*")):
            archive.write(file, file.relative_to(drawn))
    return tmp_path / "packed.zip"


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_a_zip_that_is_cut_off_is_refused(packed, keep):
    packed.write_bytes(packed.read_bytes()[:keep])
    with pytest.raises(DataSetError, match=r"neither a directory nor a zip.*name a directory"):
        read_dataset(packed, SIZE)


def test_a_zip_with_a_broken_directory_is_refused(packed):
    contents = packed.read_bytes()
    packed.write_bytes(contents.replace(b"PK\x01\x02", b"\0" * 4, 1))
    with pytest.raises(DataSetError, match="neither a directory nor a zip"):
        read_dataset(packed, SIZE)


def test_a_zip_whose_table_is_broken_is_refused(packed, drawn):
    contents, table = packed.read_bytes(), (drawn / "styles.csv").read_bytes()
    packed.write_bytes(contents.replace(table[-40:], b"x" * 40))
    with pytest.raises(DataSetError, match=r"styles\.csv can't be read"):
        read_dataset(packed, SIZE)


def test_a_photo_with_a_wrong_checksum_is_skipped(packed, drawn):
    photo = (drawn / "images" / "1007.jpg").read_bytes()
    packed.write_bytes(packed.read_bytes().replace(photo[-40:], b"x" * 40))
    data = read_dataset(packed, SIZE)
    assert data.skipped == {"unreadable photo": 1}
    assert "1007" not in data.ids


def test_a_zip_with_backslashes_in_its_names_reads_as_one_with_slashes(packed, drawn, tmp_path):
    with zipfile.ZipFile(packed) as one, zipfile.ZipFile(tmp_path / "windows.zip", "w") as other:
        for name in one.namelist():
            other.writestr(f"fashion\\{name}".replace("/", "\\"), one.read(name))
    ids = read_dataset(tmp_path / "windows.zip", SIZE).ids
    np.testing.assert_array_equal(ids, read_dataset(drawn, SIZE).ids)


def rename(packed, edit):
    """The zip again, with other names and flags in it."""
    with zipfile.ZipFile(packed) as one, zipfile.ZipFile(packed.with_name("two.zip"), "w") as other:
        for name in one.namelist():
            info = zipfile.ZipInfo(edit(name))
            other.writestr(info, one.read(name))
    return packed.with_name("two.zip")


@pytest.mark.parametrize("root", ["", "./", "/", "fashion/", "a/b c/", "größe/", "a\\b\\"])
def test_a_zip_may_hold_its_files_in_any_folder(packed, root):
    assert len(read_dataset(rename(packed, lambda name: root + name), SIZE)) == 240


@pytest.mark.parametrize("as_written", ["Größe", "Gro\u0308ße"], ids=["one character", "macOS"])
@pytest.mark.parametrize("flagged", [True, False], ids=["UTF-8", "UTF-8 that is not declared"])
def test_accents_in_names_are_understood(drawn, tmp_path, as_written, flagged):
    table = (drawn / "styles.csv").read_text().replace("1000,", "Größe,", 1)
    file_name = f"images/{as_written}.jpg"
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("styles.csv", table)
        archive.write(drawn / "images" / "1000.jpg", file_name)
    if not flagged:
        contents = bytearray((tmp_path / "one.zip").read_bytes())
        for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = contents.rindex(mark)
            contents[at + flags + 1] &= ~8
        (tmp_path / "one.zip").write_bytes(contents)
    assert read_dataset(tmp_path / "one.zip", SIZE).ids.tolist() == ["Größe"]


def patch(packed, name, *, flags=0, method=None):
    """Change the flags and the compression that a zip names for a file."""
    contents = bytearray(packed.read_bytes())
    for mark, flags_at, name_at in ((b"PK\3\4", 6, 30), (b"PK\1\2", 8, 46)):
        at = contents.index(mark)
        while contents[at + name_at : at + name_at + len(name)] != name.encode():
            at = contents.index(mark, at + 1)
        contents[at + flags_at] |= flags
        if method is not None:
            contents[at + flags_at + 2] = method
    packed.write_bytes(contents)


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ({"flags": 1}, "encrypted photo", r"it is encrypted\); unpack the zip"),
        (
            {"method": 9},
            "photo in an unsupported compression",
            r"compression.*not supported\); unpack",
        ),
        (
            {"method": 97},
            "photo in an unsupported compression",
            r"compression.*not supported\); unpack",
        ),
        ({"method": 8}, "unreadable photo", "restore it"),
        ({"method": 12}, "unreadable photo", "restore it"),
        ({"method": 14}, "unreadable photo", "restore it"),
    ],
    ids=str,
)
def test_what_cannot_be_unpacked_is_told_in_one_line(packed, change, reason, says):
    patch(packed, "images/1007.jpg", **change)
    assert read_dataset(packed, SIZE).skipped == {reason: 1}
    patch(packed, "styles.csv", **change)
    with pytest.raises(DataSetError, match=rf"styles\.csv can't be read \(.*{says}"):
        read_dataset(packed, SIZE)


@pytest.mark.parametrize("contents", [b"", b"\xff\xd8\xff"])
def test_an_empty_photo_is_skipped(damaged, contents):
    (damaged / "images" / "1000.jpg").write_bytes(contents)
    (damaged / "images" / "1001.jpg").unlink()
    (damaged / "images" / "1001.jpg").mkdir()
    assert sum(read_dataset(damaged, SIZE).skipped.values()) == 2


@given(st.binary(min_size=1, max_size=8), st.integers(0))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_damage_to_a_zip_is_more_than_a_data_set_error(small, tmp_path, damage, where):
    contents = bytearray(small)
    at = where % len(contents)
    contents[at : at + len(damage)] = damage
    (tmp_path / "damaged.zip").write_bytes(contents)
    with suppress(DataSetError):
        read_dataset(tmp_path / "damaged.zip", SIZE, lambda _: None)


@pytest.fixture(scope="session")
def small(drawn, tmp_path_factory):
    """The bytes of a zip of two photos, each compressed in another way."""
    path = tmp_path_factory.mktemp("small") / "small.zip"
    lines = (drawn / "styles.csv").read_text().splitlines(keepends=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("styles.csv", "".join(lines[:3]))
        archive.write(drawn / "images/1000.jpg", "images/1000.jpg", zipfile.ZIP_LZMA)
        archive.write(drawn / "images/1001.jpg", "images/1001.jpg", zipfile.ZIP_BZIP2)
    return path.read_bytes()


def test_of_several_tables_the_topmost_counts(drawn, tmp_path):
    (tmp_path / "set").mkdir()
    shutil.copytree(drawn, tmp_path / "set" / "copy")  # as in the zip that Kaggle serves
    shutil.copytree(drawn / "images", tmp_path / "set" / "images")
    lines = (drawn / "styles.csv").read_text().splitlines(keepends=True)
    (tmp_path / "set" / "styles.csv").write_text("".join(lines[:11]))
    assert len(read_dataset(tmp_path, SIZE)) == 10
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "set")
    assert len(read_dataset(archive, SIZE)) == 10


def test_a_digest_tells_the_photos_whatever_their_order(drawn, damaged):
    whole = read_dataset(drawn, SIZE)
    edit_rows(damaged, lambda rows: [rows[0], *reversed(rows[1:])])
    assert read_dataset(damaged, SIZE).digest() == whole.digest()
    (damaged / "images" / "1000.jpg").unlink()
    assert read_dataset(damaged, SIZE).digest() != whole.digest()

"""Claims about the list of photos of a source."""

import os
import zipfile

import pyarrow as pa
import pytest
from catalog_runs import write_table
from pyarrow import parquet

from mlc_core.errors import DataSetError
from offline.manifest import read_manifest


def quiet(line):
    pass


def listed(source):
    manifest = read_manifest(source, quiet)
    return [(row["id"], row["photo"]) for row in manifest.photos.to_pylist()]


def test_a_directory_a_zip_and_tables_are_listed_alike(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a", "b"):
        (photos / f"{name}.jpg").write_bytes(b"photo")
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("a", "b"):
            file.write(photos / f"{name}.jpg", f"{name}.jpg")
    rows = [("a", "photos/a.jpg"), ("b", "photos/b.jpg")]
    columns = {"id": ["a", "b"], "path": [photo for _, photo in rows], "price": [1.5, None]}
    parquet.write_table(pa.table(columns), tmp_path / "table.parquet")
    assert listed(photos) == listed(archive) == [("a", "a.jpg"), ("b", "b.jpg")]
    assert listed(write_table(tmp_path / "table.csv", rows)) == rows
    assert listed(tmp_path / "table.parquet") == rows


def test_urls_and_absolute_paths_stay_as_they_are(tmp_path):
    rows = [("1", "https://shop.example/a b.jpg?w=1"), ("2", "/photos/2.jpg")]
    inside = tmp_path / "deep"
    inside.mkdir()
    write_table(inside / "table.csv", [*rows, ("3", "3.jpg")])
    assert listed(inside / "table.csv") == [*rows, ("3", "3.jpg")]
    assert listed(tmp_path) == [*rows, ("3", "deep/3.jpg")]


def test_rows_without_an_id_of_their_own_or_a_photo_are_rejected_with_the_reason(tmp_path):
    rows = [("1", "1.jpg"), ("1", "2.jpg"), ("", "3.jpg"), ("4", "")]
    manifest = read_manifest(write_table(tmp_path / "table.csv", rows), quiet)
    assert len(manifest.photos) == 1
    assert [(each.id, each.reason) for each in manifest.rejected] == [
        ("1", "an id that was there before (row 3)"),
        ("", "no id (row 4)"),
        ("4", "no photo is named (row 5)"),
    ]


def test_a_file_name_that_is_not_utf_8_is_rejected(tmp_path):
    (tmp_path / "good.jpg").touch()
    (tmp_path / os.fsdecode(b"\xff.jpg")).touch()
    manifest = read_manifest(tmp_path, quiet)
    assert len(manifest.photos) == 1
    assert "UTF-8" in manifest.rejected[0].reason


@pytest.mark.parametrize("column", ["id", "path"])
def test_parquet_with_text_that_is_not_utf_8_is_refused(tmp_path, column):
    columns = {"id": pa.array([b"1"]), "path": pa.array([b"1.jpg"])} | {column: pa.array([b"\xff"])}
    texts = {name: pa.Array.from_buffers(pa.string(), 1, each.buffers())
             for name, each in columns.items()}  # fmt: skip
    parquet.write_table(pa.table(texts), tmp_path / "table.parquet")
    with pytest.raises(DataSetError, match=r"table\.parquet has text that is not UTF-8"):
        read_manifest(tmp_path / "table.parquet", quiet)


def test_the_digest_follows_the_rows_and_their_order(tmp_path):
    def digest(*rows):
        return read_manifest(write_table(tmp_path / "table.csv", rows), quiet).digest

    one, two = ("1", "1.jpg"), ("2", "2.jpg")
    assert digest(one, two) == digest(one, two)
    assert len({digest(one), digest(one, two), digest(two, one), digest(one, ("2", "3.jpg"))}) == 4


@pytest.mark.parametrize("count", [1, 32, 33, 5000, 300_000])
def test_parts_have_each_photo_once_and_are_of_one_size(tmp_path, count):
    rows = [(number, f"{number}.jpg") for number in range(count)]
    parts = read_manifest(write_table(tmp_path / "table.csv", rows), quiet).parts()
    ids = [name for part in parts for name in part["id"].to_pylist()]
    assert ids == [str(number) for number in range(count)]
    assert [set(part["part"].to_pylist()) for part in parts] == [{n} for n in range(len(parts))]
    assert len({len(part) for part in parts[:-1]}) <= 1
    assert max(map(len, parts)) <= 2000


def test_a_source_without_rows_is_refused(tmp_path):
    with pytest.raises(DataSetError, match="no rows"):
        read_manifest(write_table(tmp_path / "table.csv", []), quiet)

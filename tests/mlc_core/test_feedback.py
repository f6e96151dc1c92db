"""Claims about the directory of feedback."""

import json
from datetime import UTC, date, datetime

import pytest

from mlc_core.cli import main
from mlc_core.errors import DataSetError
from mlc_core.feedback import (
    corrections,
    is_feedback,
    new_feedback,
    read_feedback,
    remove_old_feedback,
    write_feedback,
)
from mlc_core.spec import HEADS, ImageSize
from mlc_core.training.dataset import read_dataset
from samples.garments import as_file, draw_garment

RIGHT = {
    "color": "Red", "master_category": "Apparel", "sub_category": "Topwear", "category": "Tshirts"
}  # fmt: skip


def give(directory, photo=None, labels=None, answered=None, by="anna", writer="one"):
    photo = photo or as_file(draw_garment("Tshirts", "Red"))
    feedback = new_feedback(
        photo, by=by, labels=RIGHT if labels is None else labels, model="fashion/2",
        answered=RIGHT | (answered or {}),
    )  # fmt: skip
    write_feedback(directory, writer, photo, feedback)
    return feedback


def test_what_was_stored_is_read_in_its_order(tmp_path):
    first, second = give(tmp_path), give(tmp_path, by="ben", writer="two")
    assert read_feedback(tmp_path) == [first, second]
    assert is_feedback(tmp_path)
    (photo,) = tmp_path.glob("*/photos/*")  # of both
    assert photo.read_bytes() == as_file(draw_garment("Tshirts", "Red"))


def test_a_line_that_a_crash_cut_off_is_skipped_and_reported(tmp_path):
    kept = give(tmp_path)
    (file,) = tmp_path.glob("*/*.jsonl")
    with file.open("a") as lines:
        lines.write('{"at": "2026')
    said = []
    assert read_feedback(tmp_path, said.append) == [kept]
    assert said == [f"{tmp_path}: skipped 1 lines that were cut off"]


def test_photos_are_for_their_owner_alone(tmp_path):
    give(tmp_path)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_days_are_removed_when_they_are_older_than_asked(tmp_path):
    give(tmp_path)
    (tmp_path / "2026-01-01/photos").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    assert remove_old_feedback(tmp_path, 30, date(2026, 1, 31)) == []
    assert remove_old_feedback(tmp_path, 30, date(2026, 2, 1)) == ["2026-01-01"]
    today = datetime.now(UTC).date().isoformat()
    assert sorted(day.name for day in tmp_path.iterdir()) == sorted([today, "notes"])


def test_a_directory_without_feedback_says_what_to_name(tmp_path):
    with pytest.raises(DataSetError, match="has no feedback; name the `directory`"):
        read_feedback(tmp_path)


def test_what_was_corrected_most_comes_first(tmp_path, capsys):
    for _ in range(2):
        give(tmp_path, answered={"category": "Tops"})
    give(tmp_path, answered={"color": None}, by="ben")
    assert corrections(read_feedback(tmp_path)).most_common(1) == [
        (("category", "Tops", "Tshirts"), 2)
    ]
    assert main(["feedback", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 times 2 people judged 1 photos")
    assert "category          corrected 2 of 3, 67%" in lines
    assert lines[-2:] == ["     2 × category: Tops is Tshirts", "     1 × color: no label is Red"]
    assert main(["feedback", str(tmp_path), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["times"] for line in lines] == [2, 1]
    assert main(["feedback", str(tmp_path), "--json", "--most", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:1]


def test_it_is_a_data_set_with_the_newest_label_of_each_head(tmp_path):
    other = as_file(draw_garment("Tshirts", "Blue"))
    give(tmp_path, labels=RIGHT | {"color": "Maroon"})
    give(tmp_path, labels={"color": "Red"}, by="ben")
    give(tmp_path, other, labels={"color": "Blue"})  # the other heads are not judged
    lines = []
    data = read_dataset(tmp_path, ImageSize(80, 60), lines.append)
    assert len(data) == 1
    assert {head: str(data.labels[head][0]) for head in HEADS} == RIGHT
    assert any("no master_category" in line for line in lines)
    alone = read_dataset(tmp_path, ImageSize(80, 60), print, ["color"])
    assert sorted(alone.labels["color"].tolist()) == ["Blue", "Red"]

"""`make compare`, in small: five models trained on drawn photos, both variants measured."""

import shlex

import pytest
from readme import printed
from services import bench, with_args

from mlc_core.spec import HEADS
from samples.garments import write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of the report, and the line of JSON."""
    folder = tmp_path_factory.mktemp("compared")
    write_dataset(folder / "drawn", photos_each=6)
    command = shlex.split(
        printed("make compare").replace("path/to/fashion.zip", str(folder / "drawn"))
    )
    options = f"--models {folder}/models --epochs 1 --rounds 1 --seconds 1".split()
    line = bench(with_args(command, *options), folder, within_s=600)
    return folder, line


def test_both_variants_are_measured_and_answer_every_photo(compared):
    figures = compared[1]["figures"]
    for variant in ("one", "four"):
        assert figures["64 connections: photos/s"][variant] > 0
        assert figures["failures"][variant] == 0
    for cost in ("core-ms per photo", "of which not shared: MB (USS)",
                 "one photo under predict: ms"):  # fmt: skip
        assert figures[cost]["four"] > figures[cost]["one"]


def test_every_head_is_compared_on_the_same_photos(compared):
    rows = compared[1]["accuracy"]
    assert [row["head"] for row in rows] == list(HEADS)
    for row in rows:
        assert 0 <= row["p"] <= 1
        for key in ("accuracy one", "accuracy four", "macro_f1 one", "macro_f1 four"):
            assert row[key]["low"] <= row[key]["value"] <= row[key]["high"]


def test_the_report_has_its_tables_and_pictures(compared):
    folder = compared[0]
    text = (folder / "one-model-or-four.md").read_text()
    for head in HEADS:
        assert f"| {head} |" in text
    assert "| 64 connections: photos/s |" in text
    for picture in ("accuracy", "cost"):
        assert f"(one-or-four/{picture}.png)" in text
        assert (folder / f"one-or-four/{picture}.png").stat().st_size > 10_000

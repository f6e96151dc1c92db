"""Claims about the options of `mlc catalog`, without Ray."""

import importlib.util
import os
import sys

import pytest

from mlc_core.cli import main

needs_pandas = pytest.mark.skipif(
    importlib.util.find_spec("pandas") is None, reason="needs pandas; make test-catalog has it"
)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """The command sets variables of Ray, which other tests must not see."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


def test_without_its_packages_the_command_says_which_extra_to_install(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(sys.modules, "offline.running", None)
    assert main(["catalog", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "pip install -e '.[catalog]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "why"),
    [(["--workers", "0"], "whole number from 1"), (["--min-precision", "1.5"], "number from 0")],
)
def test_options_out_of_range_are_refused(options, why, capsys):
    with pytest.raises(SystemExit):
        main(["catalog", "photos", "out", *options])
    assert why in capsys.readouterr().err


@needs_pandas
def test_a_source_without_photos_is_refused_before_ray_starts(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    assert main(["catalog", str(tmp_path / "photos"), str(tmp_path / "out")]) == 1
    assert "no photos and no table" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs_pandas
@pytest.mark.parametrize("inside", ["", "labels", "other/../labels"])
def test_a_directory_of_labels_inside_the_source_is_refused(drawn_photos, inside, capsys):
    before = sorted(drawn_photos.iterdir())
    assert main(["catalog", str(drawn_photos), str(drawn_photos / inside)]) == 1
    assert "is inside" in capsys.readouterr().err
    assert sorted(drawn_photos.iterdir()) == before


@needs_pandas
def test_a_precision_that_the_model_can_not_promise_is_refused(
    unpromising_model, drawn_photos, tmp_path, capsys
):
    model = ["--model", str(unpromising_model), "--min-precision", "0.95"]
    assert main(["catalog", str(drawn_photos), str(tmp_path / "out"), *model]) == 1
    assert "no thresholds" in capsys.readouterr().err

"""The command mlc: what it prints, what it writes, how it exits."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlc_core.artifact import load_artifact
from mlc_core.cli import main
from mlc_core.spec import HEADS
from samples.garments import as_file, draw_garment


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory):
    """Exit code, run directory and artifact of `mlc train` on the drawn data set."""
    path = tmp_path_factory.mktemp("trained")
    model, run = path / "models" / "drawn" / "2", path / "run"
    code = main(["train", str(drawn), "--model", str(model), "--run", str(run), "--epochs", "1"])
    return code, run, load_artifact(model)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    for category in ("Tshirts", "Handbags"):
        photo = as_file(draw_garment(category, "Red", (225, 300)), "PNG")
        (path / f"{category}.png").write_bytes(photo)
    return sorted(path.iterdir())


def test_train_saves_an_artifact_named_by_its_path(trained):
    code, _, artifact = trained
    assert code == 0
    assert (artifact.spec.name, artifact.spec.version) == ("drawn", "2")
    assert tuple(artifact.spec.heads) == HEADS


def test_metrics_tell_accuracy_and_how_it_was_trained(trained):
    metrics = trained[2].metrics
    assert metrics["training"]["epochs_run"] == 1
    assert metrics["training"]["recipe"]["epochs"] == 1
    assert metrics["training"]["data"]["photos"] == 240
    assert metrics["network"]["multiply_adds"] > 1e6
    assert metrics["test_photos"] > 10
    assert set(metrics["larger_photos"]) == {"225×300", "1080×1440"}


def test_train_takes_the_next_free_version(tmp_path, monkeypatch):
    (tmp_path / "models" / "fashion" / "1").mkdir(parents=True)
    asked = []

    def produce(source, model, heads, size, recipe, run, report):
        asked.append((model, run))
        return SimpleNamespace(path=model, metrics={"heads": {}, "larger_photos": {}})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlc_core.training.workflow.train_from_source", produce)
    assert main(["train", "data"]) == 0
    assert asked == [(Path("models/fashion/2"), Path("runs/fashion-2"))]


def test_evaluate_measures_the_same_and_draws_confusions(trained, drawn, tmp_path, capsys):
    _, _, artifact = trained
    code = main(
        ["evaluate", str(drawn), "--model", str(artifact.path), "--out", str(tmp_path / "out")]
    )
    assert code == 0
    pictures = {file.name for file in (tmp_path / "out").glob("*.png")}
    assert pictures == {f"confusion-{head}.png" for head in HEADS}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == artifact.metrics
    printed = capsys.readouterr().out
    assert all(head in printed for head in HEADS)


def test_evaluate_refuses_another_data_set(trained, drawn, tmp_path, capsys):
    other = shutil.copytree(drawn, tmp_path / "other")
    (other / "images" / "1000.jpg").unlink()
    code = main(["evaluate", str(other), "--model", str(trained[2].path), "--out", str(tmp_path)])
    assert code == 1
    assert "239 usable photos" in capsys.readouterr().err


def test_classify_prints_a_table(saved, photos, capsys):
    assert main(["classify", *map(str, photos), "--model", str(saved.path)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["photo", *HEADS]
    assert [row.split()[0] for row in rows] == list(map(str, photos))
    assert all(row.count("%") == 4 for row in rows)


def test_classify_prints_json_lines(saved, photos, capsys):
    arguments = ["classify", *map(str, photos), "--model", str(saved.path)]
    assert main([*arguments, "--json", "--top-k", "2"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["photo"] for answer in answers] == list(map(str, photos))
    for answer in answers:
        assert answer["model"] == {"name": "tiny", "version": "3"}
        assert list(answer["labels"]) == list(HEADS)
        assert all(len(label["alternatives"]) == 1 for label in answer["labels"].values())


def test_one_bad_photo_spoils_no_other(saved, photos, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a photo")
    paths = [str(photos[0]), str(bad), str(tmp_path / "missing.jpg"), str(photos[1])]
    assert main(["classify", *paths, "--model", str(saved.path), "--json"]) == 3
    printed = capsys.readouterr()
    named = [json.loads(line)["photo"] for line in printed.out.splitlines()]
    assert named == [paths[0], paths[3]]
    first, second = printed.err.splitlines()
    assert first.startswith(f"mlc: {bad}: the bytes are not an image")
    assert second == f"mlc: {tmp_path / 'missing.jpg'}: No such file or directory"


def test_a_missing_model_is_one_line_and_exit_code_1(photos, tmp_path, capsys):
    assert main(["classify", str(photos[0]), "--model", str(tmp_path / "none")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlc: no model at")


def test_a_missing_data_set_is_one_line_and_exit_code_1(tmp_path, capsys):
    arguments = ["train", str(tmp_path / "none"), "--model", str(tmp_path / "m" / "1")]
    assert main([*arguments, "--run", str(tmp_path / "run")]) == 1
    assert "neither a directory nor a zip" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["classify"], "PHOTO"),
        (["classify", "a.jpg", "--top-k", "0"], "1 to 20"),
        (["train"], "DATA"),
        (["train", "data", "--model", "fashion"], "NAME/VERSION"),
        (["train", "data", "--model", "a/1", "--heads", "colour"], "no head"),
        (["train", "data", "--model", "a/1", "--loss-weights", "color"], "HEAD=WEIGHT"),
        (["train", "data", "--model", "a/1", "--epochs", "0"], "above 0"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_why(arguments, reason, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert reason in capsys.readouterr().err


def test_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["classify", "--help"])
    assert exit_.value.code == 0
    assert "some photos could not be read" in capsys.readouterr().out


def test_it_runs_as_a_module(saved, photos):
    command = [sys.executable, "-m", "mlc_core", "classify", "--json", "--model"]
    done = subprocess.run(
        [*command, str(saved.path), str(photos[0])], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["photo"] == str(photos[0])
    assert done.stderr == ""

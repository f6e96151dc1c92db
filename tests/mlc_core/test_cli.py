"""The command mlc: what it prints, what it writes, how it exits."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
from readme import printed
from services import PROJECT, with_args

from mlc_core import __main__, cli
from mlc_core.artifact import load_artifact
from mlc_core.cli import main
from mlc_core.spec import HEADS
from mlc_core.training.workflow import read_and_split
from samples.garments import as_file, draw_garment


def of_the_readme(command, data, *options):
    """The arguments that a `make` command of the README gives to mlc, with more ARGS."""
    words = shlex.split(command.replace("path/to/fashion.zip", str(data)))
    # Not run by make: it would install what these tests already have.
    make = [
        *with_args(words, *options),
        "--dry-run",
        "--no-print-directory",
        f"PYTHON={sys.executable}",
    ]
    done = subprocess.run(make, cwd=PROJECT, capture_output=True, text=True, check=True)
    mlc, *arguments = shlex.split(done.stdout.splitlines()[-1])
    assert mlc == ".venv/bin/mlc"
    return arguments


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory):
    """Exit code, run directory and artifact of `make train` on the drawn data set."""
    path = tmp_path_factory.mktemp("trained")
    model, run = path / "models" / "drawn" / "2", path / "run"
    options = ["--model", str(model), "--run", str(run), "--epochs", "1"]
    code = main(of_the_readme(printed("make train"), drawn, *options))
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


def test_an_artifact_lists_the_photos_of_training_and_validation(trained, drawn):
    artifact = trained[2]
    data, parts = read_and_split(
        drawn, artifact.spec.image, artifact.metrics["training"]["split"]["seed"]
    )
    seen = np.concatenate([parts.train, parts.validation])
    assert artifact.training_ids() == set(data.ids[seen].tolist())
    assert artifact.metrics["training"]["data"]["digest"] == data.digest()


@pytest.fixture
def asked(monkeypatch):
    """What `mlc train` asks for, as (model, run, heads, recipe); nothing is trained."""
    asked = []

    def train(source, model, heads, size, recipe, run, report, feedback):
        asked.append((model, run, heads, recipe))
        return SimpleNamespace(path=model, metrics={"heads": {}, "larger_photos": {}})

    monkeypatch.setattr("mlc_core.training.workflow.train_from_source", train)
    return asked


@pytest.mark.long
def test_train_takes_the_next_free_version_of_the_project(asked, tmp_path, monkeypatch):
    (tmp_path / "models" / "fashion" / "1").mkdir(parents=True)
    monkeypatch.setattr(cli, "MODEL", tmp_path / "models" / "fashion" / "1")
    monkeypatch.setattr(cli, "PROJECT", tmp_path)
    assert main(["train", "data"]) == 0
    assert asked[0][:2] == (tmp_path / "models/fashion/2", tmp_path / "runs/fashion-2")


@pytest.mark.long
def test_the_numbers_of_the_recipe_are_options(asked, tmp_path):
    options = [
        "--epochs", "3", "--batch-size", "64", "--learning-rate", "2e-3", "--weight-decay", "0",
        "--label-smoothing", "0.1", "--patience-epochs", "2", "--seed", "9",
        "--precision", "mixed_bfloat16", "--loss-weights", "color=0.5", "--heads", "color,category",
    ]  # fmt: skip
    assert main(["train", "data", "--model", str(tmp_path / "m" / "1"), *options]) == 0
    ((_, _, heads, recipe),) = asked
    assert heads == ("color", "category")
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (3, 64, 2e-3)
    assert (recipe.weight_decay, recipe.label_smoothing, recipe.patience_epochs) == (0, 0.1, 2)
    assert (recipe.seed, recipe.precision, recipe.loss_weights) == (
        9,
        "mixed_bfloat16",
        {"color": 0.5},
    )


@pytest.mark.long
def test_what_is_not_named_is_the_recipes(asked, tmp_path):
    from mlc_core.training.trainer import Recipe  # noqa: PLC0415  (Keras takes seconds)

    assert main(["train", "data", "--model", str(tmp_path / "m" / "1")]) == 0
    assert asked[0][3] == Recipe()
    taught = ["--teacher", "--epochs", "5", "--views", "2"]
    assert main(["train", "data", "--model", str(tmp_path / "m" / "1"), *taught]) == 0
    assert asked[1][3] == Recipe.taught(epochs=5, views=2)


def test_train_replaces_no_model_without_being_told_to(saved, capsys):
    before = (saved.path / "SHA256SUMS").read_text()
    assert main(["train", "nothing", "--model", str(saved.path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"mlc: {saved.path} exists; name another --model, or add --overwrite"
    assert (saved.path / "SHA256SUMS").read_text() == before


def test_train_replaces_a_model_when_told_to(saved, asked):
    assert main(["train", "data", "--model", str(saved.path), "--overwrite"]) == 0
    assert asked[0][0] == saved.path


def test_train_never_replaces_what_is_no_model(tmp_path, capsys):
    photos = tmp_path / "photos" / "1"
    photos.mkdir(parents=True)
    assert main(["train", "data", "--model", str(photos), "--overwrite"]) == 1
    assert "exists and is no model" in capsys.readouterr().err


@pytest.mark.long
def test_tensorflow_writes_nothing_when_it_is_imported(tmp_path):
    command = [sys.executable, "-m", "mlc_core", "train", str(tmp_path / "none")]
    done = subprocess.run(
        [*command, "--model", str(tmp_path / "m" / "1")],
        capture_output=True,
        text=True,
        check=False,
    )
    reading, refused = done.stderr.splitlines()
    assert reading == f"reading {tmp_path / 'none'}"
    assert refused.startswith("mlc: there is nothing at")


def test_what_a_failed_import_wrote_is_shown(capfd):
    def fail():
        os.write(2, b"illegal instruction\n")
        raise ImportError

    with pytest.raises(ImportError), cli._tensorflow_notes_hidden():
        fail()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "illegal instruction\nafter\n"


def test_packages_that_are_missing_are_told_with_their_remedy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlc_core.training.workflow", None)
    assert main(["evaluate", "data"]) == 1
    assert "pip install -e '.[train]'" in capsys.readouterr().err


def test_evaluate_measures_the_same_and_draws_confusions(trained, drawn, tmp_path, capsys):
    _, _, artifact = trained
    options = ["--model", str(artifact.path), "--out", str(tmp_path / "out")]
    assert main(of_the_readme(printed("make evaluate"), drawn, *options)) == 0
    pictures = {file.name for file in (tmp_path / "out").glob("*.png")}
    assert {*(f"confusion-{head}.png" for head in HEADS), "reliability.png"} <= pictures
    report = (tmp_path / "out" / "report.md").read_text()
    assert {*re.findall(r"\]\((.+?\.png)\)", report)} == pictures
    for head, numbers in artifact.metrics["heads"].items():
        assert f"## {head}" in report
        for name in numbers["per_class"]:
            assert f"| {name} | " in report
    measured = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for key in ("heads", "larger_photos", "test_photos", "intervals"):
        assert measured[key] == artifact.metrics[key]
    assert measured["model"] == {"name": "drawn", "version": "2"}
    table = capsys.readouterr().out
    assert all(head in table for head in HEADS)


def test_evaluate_takes_other_data_and_says_what_it_leaves_out(trained, drawn, tmp_path, capsys):
    _, _, artifact = trained
    other = shutil.copytree(drawn, tmp_path / "other")
    seen = artifact.training_ids()
    (other / "images" / f"{min(seen)}.jpg").unlink()
    code = main(["evaluate", str(other), "--model", str(artifact.path), "--out", str(tmp_path)])
    assert code == 0
    assert f"left out {len(seen) - 1} photos with ids of the training" in capsys.readouterr().err


def test_classify_prints_a_table(saved, photos, capsys):
    assert main(["classify", *map(str, photos), "--model", str(saved.path)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["photo", *HEADS]
    assert [row.split()[0] for row in rows] == list(map(str, photos))
    assert all(row.count("%") == 4 for row in rows)


def test_the_table_shows_alternatives_below_the_labels(saved, photos, capsys):
    assert main(["classify", str(photos[0]), "--model", str(saved.path), "--top-k", "4"]) == 0
    _, first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(str(photos[0]))
    assert [row.count("%") for row in (first, *others)] == [4, 4, 2, 1]  # 3, 2, 2 and 4 classes
    assert all(row.startswith(" " * len(str(photos[0]))) for row in others)


def test_a_directory_stands_for_the_photos_in_and_below_it(saved, photos, tmp_path, capsys):
    (tmp_path / "below").mkdir()
    (tmp_path / "directory.png").mkdir()
    for number, name in enumerate(("b.PNG", "a.jpeg", "below/c.webp", "note.txt")):
        shutil.copy(photos[number % 2], tmp_path / name)
    assert main(["classify", str(tmp_path), "--model", str(saved.path), "--json"]) == 0
    named = [json.loads(line)["photo"] for line in capsys.readouterr().out.splitlines()]
    assert named == [str(tmp_path / name) for name in ("a.jpeg", "b.PNG", "below/c.webp")]


def test_a_quoted_pattern_stands_for_what_it_matches(saved, photos, tmp_path, capsys):
    (tmp_path / "below").mkdir()
    for name in ("b.png", "a.png", "c.jpg", "below/d.png", "e[1].png"):
        shutil.copy(photos[0], tmp_path / name)
    for pattern, names in (
        ("[ab].png", ["a.png", "b.png"]),
        ("**/*.png", ["a.png", "b.png", "below/d.png", "e[1].png"]),
        ("below/**", ["below/d.png"]),
        ("e[1].png", ["e[1].png"]),  # a file of that name comes first
    ):
        assert (
            main(["classify", f"{tmp_path}/{pattern}", "--model", str(saved.path), "--json"]) == 0
        )
        named = [json.loads(line)["photo"] for line in capsys.readouterr().out.splitlines()]
        assert named == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize("name", ["*.jpg", ""], ids=["pattern", "directory"])
def test_where_no_photo_is_found_none_is_classified(saved, tmp_path, capsys, name):
    assert main(["classify", str(tmp_path / name), "--model", str(saved.path)]) == 4
    assert capsys.readouterr().err == f"mlc: {tmp_path / name}: no photos found\n"


def test_the_default_model_is_the_projects_wherever_it_is_called_from(
    photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["classify", str(photos[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["name"] == "fashion"


def test_the_precision_is_the_services_unless_another_is_named(photos, monkeypatch, capsys):
    asked = []
    load = cli.load_engine

    def load_engine(name, artifact, precision):
        asked.append(precision)
        return load(name, artifact, precision=precision)

    monkeypatch.setattr(cli, "load_engine", load_engine)
    for options in ([], ["--precision", "float32"], ["--precision", "int8"]):
        assert main(["classify", str(photos[0]), *options]) == 0
    assert asked == ["int8", "float32", "int8"]


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
    output = capsys.readouterr()
    named = [json.loads(line)["photo"] for line in output.out.splitlines()]
    assert named == [paths[0], paths[3]]
    first, second = output.err.splitlines()
    assert first.startswith(f"mlc: {bad}: the bytes are not an image")
    assert second == f"mlc: {tmp_path / 'missing.jpg'}: No such file or directory"


def test_photos_that_all_fail_exit_with_4(saved, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"not a photo")
    assert main(["classify", str(tmp_path), "missing.jpg", "--model", str(saved.path)]) == 4


def test_a_photo_that_is_named_twice_is_classified_twice(saved, photos, capsys):
    arguments = ["classify", str(photos[0]), str(photos[0]), "--model", str(saved.path), "--json"]
    assert main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_missing_model_is_one_line_and_exit_code_1(photos, tmp_path, capsys):
    assert main(["classify", str(photos[0]), "--model", str(tmp_path / "none")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlc: no model at")


@pytest.mark.parametrize("command", ["evaluate", pytest.param("train", marks=pytest.mark.long)])
@pytest.mark.parametrize("contents", [None, b"a note", b"PK\5\6" + bytes(18) + b"?"])
def test_data_that_is_no_data_set_is_one_line_and_exit_code_1(command, contents, tmp_path, capsys):
    data = tmp_path / "data.zip"
    if contents is not None:
        data.write_bytes(contents)
    where = ["--model", str(tmp_path / "m" / "1"), "--run", str(tmp_path / "run")]
    options = {"train": where, "evaluate": ["--out", str(tmp_path / "out")]}[command]
    assert main([command, str(data), *options]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("mlc: ")
    assert str(data) in line
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["classify"], "PHOTO"),
        (["classify", "a.jpg", "--top-k", "0"], "1 to 20"),
        (["train"], "DATA"),
        (["train", "data", "--model", "fashion"], "NAME/VERSION"),
        (["train", "data", "--model", "a/\udcff"], "no name that an answer can carry"),
        (["train", "data", "--model", "a/1", "--heads", "colour"], "no head"),
        (["train", "data", "--model", "a/1", "--loss-weights", "color"], "HEAD=WEIGHT"),
        (["train", "data", "--model", "a/1", "--loss-weights", "color=nan"], "HEAD=WEIGHT"),
        (["train", "data", "--model", "a/1", "--epochs", "0"], "whole number from 1"),
        (["train", "data", "--model", "a/1", "--epochs", "٣"], "whole number from 1"),
        (["train", "data", "--seed", "-1"], "whole number from 0 to 4294967295"),
        (["train", "data", "--learning-rate", "nan"], "number from 0"),
        (["train", "data", "--weight-decay", "-1"], "number from 0"),
        (["train", "data", "--label-smoothing", "1"], "number from 0, below 1"),
        (["classify", "a.jpg", "--precision", "bfloat16"], "int8"),
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


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"mlc {version('multi-label-classifier')}\n"


def test_it_runs_as_a_module(saved, photos):
    command = [sys.executable, "-m", "mlc_core", "classify", "--json", "--model"]
    done = subprocess.run(
        [*command, str(saved.path), str(photos[0])], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["photo"] == str(photos[0])
    assert done.stderr == ""


class Process:
    """The command in a process of its own, and the pipes to it."""

    def __init__(self, *arguments, prefix=(), **env):
        command = [*prefix, sys.executable, "-m", "mlc_core", "classify"]
        self._process = subprocess.Popen(
            [*command, *arguments], cwd=PROJECT, env=os.environ | env,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def first_bytes(self):
        """Read the beginning of the output, then leave, as `head` does."""
        with self._process.stdout as output:
            return output.read(10)

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def end(self):
        """Exit code, stdout if it was not read, and stderr."""
        output = b"" if self._process.stdout.closed else self._process.stdout.read()
        with self._process, self._process.stderr as errors:
            said = errors.read().decode()
        return self._process.returncode, output, said


@pytest.mark.parametrize("count", [1, 3000], ids=["at the end", "in the middle"])
def test_a_reader_that_leaves_ends_it_quietly(photos, count):
    process = Process(*[str(photos[0])] * count, "--json")
    if count == 1:
        process._process.stdout.close()
    else:
        assert process.first_bytes() == b'{"photo": '
    code, _, said = process.end()
    assert (code, said) == (141, "")


def test_a_disk_that_is_full_is_one_line(photos):
    shell = ["sh", "-c", 'exec "$@" > /dev/full', "sh"]
    code, _, said = Process(str(photos[0]), prefix=shell).end()
    assert (code, said) == (1, "mlc: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    ("closed", "says"),
    [(">&-", "mlc: the standard output is closed; redirect it to a file or to /dev/null\n"),
     (">&- 2>&-", "")],
)  # fmt: skip
def test_without_an_output_it_says_so_and_does_nothing(photos, closed, says):
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    assert Process(str(photos[0]), prefix=shell).end() == (1, b"", says)


def test_without_a_standard_error_reports_do_not_get_among_the_answers(photos):
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh"]
    code, output, _ = Process("missing.jpg", str(photos[0]), "--json", prefix=shell).end()
    assert code == 3
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    "env",
    [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
     {"PYTHONIOENCODING": "ascii"}],
    ids=["C", "plain C", "ASCII"],
)  # fmt: skip
def test_a_file_name_of_any_bytes_is_printed_as_it_is(photos, tmp_path, env):
    names = [b"gr\xf6\xdfe.png", "größe.png".encode(), "写真.png".encode(), b"two words.png"]
    for name in names:
        shutil.copy(photos[0], os.fsencode(tmp_path) + b"/" + name)
    code, output, said = Process(str(tmp_path), **env).end()
    assert (code, said) == (0, "")
    for name in names:
        assert name in output
    code, output, said = Process(str(tmp_path), "--json", **env).end()
    assert (code, said) == (0, "")
    named = [json.loads(line)["photo"] for line in output.decode("ascii").splitlines()]
    assert set(map(os.fsencode, named)) == {os.fsencode(tmp_path) + b"/" + name for name in names}


def test_an_odd_file_name_that_fails_is_reported(tmp_path):
    name = os.fsencode(tmp_path) + b"/gr\xf6\xdfe.png"
    with open(name, "wb") as file:  # noqa: PTH123  (a path of bytes)
        file.write(b"no photo")
    code, output, said = Process(str(tmp_path), "--json").end()
    assert (code, output) == (4, b"")
    assert "gr\\udcf6\\udcdfe.png: the bytes are not an image" in said


def test_ctrl_c_is_quiet_while_it_works(photos):
    process = Process(*[str(photos[0])] * 3000, "--json", prefix=["env", "--default-signal=INT"])
    assert process._process.stdout.read(1) == b"{"
    process.interrupt()
    code, _, said = process.end()
    assert (code, said) == (130, "mlc: interrupted\n")


@pytest.mark.parametrize("as_import_error", [False, True])
def test_ctrl_c_is_quiet_while_something_is_imported(monkeypatch, capsys, as_import_error):
    def interrupted():
        if as_import_error:
            raise ImportError("initialization failed") from KeyboardInterrupt()
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    assert __main__.main() == 130
    assert capsys.readouterr().err == "mlc: interrupted\n"

"""The artifact: refused when a file is missing, altered or inconsistent."""

import hashlib
import json
import shutil

import pytest

from mlc_core.artifact import load_artifact, pack_ids
from mlc_core.errors import ArtifactError

FILES = ("spec.json", "model.keras", "model.onnx", "metrics.json")


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved.path, tmp_path / "copy")


def write_sums(path, names=FILES):
    lines = [f"{hashlib.sha256((path / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    (path / "SHA256SUMS").write_text("".join(lines))


def test_what_was_saved_is_loaded(saved, spec):
    loaded = load_artifact(str(saved.path))
    assert loaded == saved
    assert loaded.spec == spec
    assert sorted(file.name for file in saved.path.iterdir()) == sorted([*FILES, "SHA256SUMS"])


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_refused_by_name(copy, name):
    contents = bytearray((copy / name).read_bytes())
    contents[-1] ^= 1
    (copy / name).write_bytes(contents)
    with pytest.raises(ArtifactError, match=rf"{name}.*restore"):
        load_artifact(copy)


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
def test_a_missing_file_is_refused_by_name(copy, name):
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}.*restore"):
        load_artifact(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_a_checksum_is_refused(copy, name):
    sums = (copy / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copy / "SHA256SUMS").write_text("".join(line for line in sums if name not in line))
    with pytest.raises(ArtifactError, match=f"does not cover {name}"):
        load_artifact(copy)


@pytest.mark.parametrize("name", ["model.int8.onnx", "training_ids.txt.gz"])
def test_an_optional_file_needs_a_checksum_too(copy, name):
    (copy / name).write_bytes(pack_ids(["7"]))
    with pytest.raises(ArtifactError, match=f"does not cover {name}"):
        load_artifact(copy)
    write_sums(copy, [*FILES, name])
    load_artifact(copy)


def test_the_ids_of_the_training_are_read_back(copy):
    ids = {"1163", "SKU-7", "Größe 7"}
    (copy / "training_ids.txt.gz").write_bytes(pack_ids(ids))
    write_sums(copy, [*FILES, "training_ids.txt.gz"])
    assert load_artifact(copy).training_ids() == ids


def test_the_same_ids_make_the_same_file():
    assert pack_ids(["8", "7"]) == pack_ids(iter(["7", "8"]))


def test_an_artifact_may_have_no_ids(saved):
    assert saved.training_ids() is None


def test_ids_that_are_no_list_are_refused_by_name(copy):
    (copy / "training_ids.txt.gz").write_bytes(b"7\n8\n")
    write_sums(copy, [*FILES, "training_ids.txt.gz"])
    with pytest.raises(ArtifactError, match=r"training_ids\.txt\.gz.*restore"):
        load_artifact(copy).training_ids()


@pytest.mark.parametrize("line", ["gibberish\n", f"{'0' * 64}  ../../etc/passwd\n"])
def test_checksums_of_anything_else_are_refused(copy, line):
    with (copy / "SHA256SUMS").open("a") as file:
        file.write(line)
    with pytest.raises(ArtifactError, match="SHA256SUMS"):
        load_artifact(copy)


def test_a_bad_spec_is_refused_by_name(copy):
    (copy / "spec.json").write_text('{"name": "tiny"}')
    write_sums(copy)
    with pytest.raises(ArtifactError, match=r"spec\.json"):
        load_artifact(copy)


def test_metrics_of_other_heads_are_refused(copy):
    (copy / "metrics.json").write_text(json.dumps({"heads": {"color": {}}}))
    write_sums(copy)
    with pytest.raises(ArtifactError, match="different models"):
        load_artifact(copy)


@pytest.mark.parametrize("metrics", ["[]", "{", '{"heads": 1}'])
def test_metrics_of_another_form_are_refused(copy, metrics):
    (copy / "metrics.json").write_text(metrics)
    write_sums(copy)
    with pytest.raises(ArtifactError, match=r"metrics\.json"):
        load_artifact(copy)


def test_no_directory_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no model at"):
        load_artifact(tmp_path / "nothing")

"""Claims about `mlc catalog`, as users run it: nothing is lost, nothing is doubled."""

import os
import random
import signal
import sys
import time

import psutil
import pyarrow as pa
import pytest
from catalog_runs import Run, failures_of, rows_of, server, write_table
from pyarrow import parquet
from services import wait_until

from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from mlc_core.labels import Choice, Labeller, parse_answer
from mlc_core.photo import decode
from samples.photos import small_photos

pytest.importorskip("pandas", reason="Ray Data needs it; make test-catalog has it")
pytestmark = pytest.mark.long

COUNT = 3_000
ENDS = b"ends the process that decodes it"


@pytest.fixture(scope="module")
def table(drawn_photos):
    """A table of many products with few photos, some of which are broken or missing."""
    names = sorted(each.name for each in drawn_photos.iterdir())
    rows = [(f"P{n}", f"photos/{names[n % len(names)]}") for n in range(COUNT)]
    return write_table(drawn_photos.parent / "table.csv", [*rows, ("P", "photos/missing.jpg")])


@pytest.fixture(scope="module")
def undisturbed(table, tmp_path_factory):
    run = Run(table, tmp_path_factory.mktemp("undisturbed") / "out")
    assert run.wait() == 3, run.errors
    return run


def by_id(rows):
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "a row is there twice"
    return found


def assert_same(out, undisturbed):
    assert by_id(rows_of(out)) == by_id(rows_of(undisturbed.out))
    assert by_id(failures_of(out)) == by_id(failures_of(undisturbed.out))


def test_each_photo_has_a_row_or_a_reason(undisturbed):
    rows, failures = by_id(rows_of(undisturbed.out)), by_id(failures_of(undisturbed.out))
    assert rows.keys() | failures.keys() == {"P", *(f"P{n}" for n in range(COUNT))}
    assert not rows.keys() & failures.keys()
    assert "photo is damaged" in failures["P320"]["reason"]
    assert failures["P"]["reason"].startswith("no photo: ")
    assert f"{len(rows)} photos labelled, {len(failures)} failed" in undisturbed.output


def test_labels_are_those_that_the_service_answers(undisturbed, shipped_model):
    artifact = load_artifact(shipped_model)
    engine = load_engine("onnxruntime", artifact, precision="int8")
    rows = by_id(rows_of(undisturbed.out))
    for number, photo in enumerate(small_photos(5)):
        outputs = engine.infer(decode(photo, artifact.spec.image)[None])
        (answer,) = Labeller(artifact.spec).answers(outputs, [Choice()])
        row = rows[f"P{number}"]
        assert row["model"] == {"name": artifact.spec.name, "version": artifact.spec.version}
        for head, label in parse_answer(answer)["labels"].items():
            assert row["labels"][head]["label"] == label["label"]


def test_no_process_is_left(undisturbed):
    left = [each for each in psutil.process_iter() if session_of(each) == undisturbed.pid]
    assert [each for each in left if each.status() != psutil.STATUS_ZOMBIE] == []


def session_of(process):
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def test_a_second_run_does_nothing_and_another_choice_is_refused(undisturbed, table):
    before = sorted(undisturbed.out.rglob("*"))
    again = Run(table, undisturbed.out)
    assert again.wait() == 3
    assert "nothing to do" in again.errors
    other = Run(table, undisturbed.out, "--precision", "float32")
    assert other.wait() == 1
    assert "precision is float32, was int8" in other.errors
    assert sorted(undisturbed.out.rglob("*")) == before


def test_two_kills_at_random_moments_lose_and_double_nothing(table, tmp_path, undisturbed):
    out = tmp_path / "out"
    done = 0
    for victim in ("driver", "group"):
        run = Run(table, out, "--workers", "2")
        moment = done + random.randint(1, 15)
        wait_until(lambda: run.parts() >= moment or not run.is_running(), "parts", 60)  # noqa: B023
        time.sleep(random.uniform(0, 0.05))
        assert run.is_running(), "it ended before its kill"
        if victim == "group":
            os.killpg(run.pid, signal.SIGKILL)
        run.kill()
        done = run.parts()
        assert not (out / "_SUCCESS").exists()
    last = Run(table, out)
    assert last.wait() == 3, last.errors
    assert "resuming" in last.errors
    assert_same(out, undisturbed)


def test_a_killed_worker_loses_and_doubles_nothing(table, tmp_path, undisturbed):
    run = Run(table, tmp_path / "out", "--workers", "2")
    wait_until(lambda: run.parts() >= 3 or not run.is_running(), "parts", 60)
    workers = [
        each
        for each in psutil.Process(run.pid).children(recursive=True)
        if "Labelling" in " ".join(each.cmdline())
    ]
    assert workers, "it ended before its kill"
    workers[0].kill()
    assert run.wait() == 3, run.errors
    assert_same(run.out, undisturbed)


# A bug in native code, in every process of the run.
_DECODING = f"""
import os, signal, mlc_core.photo

decode = mlc_core.photo.decode

def decode_or_end(photo, size):
    if photo.endswith({ENDS!r}):
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(photo, size)

mlc_core.photo.decode = decode_or_end
"""
_READING = """
import os, signal, mlc_core.sources.files

read = mlc_core.sources.files._read

def read_or_end(file, *options):
    if file.name == "20.jpg":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(file, *options)

mlc_core.sources.files._read = read_or_end
"""


@pytest.mark.parametrize("bug", [_DECODING, _READING], ids=["decoding", "reading"])
def test_a_photo_that_ends_each_process_is_a_failure(tmp_path, bug):
    source = tmp_path / "photos"
    source.mkdir()
    for number, photo in enumerate(small_photos(40)):
        (source / f"{number:02}.jpg").write_bytes(photo)
    (source / "20.jpg").write_bytes(small_photos(1)[0] + ENDS)
    (tmp_path / "sitecustomize.py").write_text(bug)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    run = Run(source, tmp_path / "out", "--workers", "1", PYTHONPATH=path)
    assert run.wait() == 3, run.errors
    (failure,) = failures_of(run.out)
    assert failure["id"] == "20"
    assert "ends the process" in failure["reason"]
    assert len(by_id(rows_of(run.out))) == 39


def test_a_parquet_of_urls_becomes_a_parquet_of_labels_and_embeddings(tmp_path, shipped_model):
    photos = small_photos(100)

    def answer(path, times):
        number = int(path.strip("/"))
        return (200, photos[number]) if number < len(photos) else (404, b"")

    with server(answer) as (url, _):
        columns = {
            "sku": [f"S{n}" for n in range(101)],
            "image": [f"{url}/{n}" for n in range(101)],
        }
        parquet.write_table(pa.table(columns), tmp_path / "shop.parquet")
        options = ("--format", "parquet", "--embeddings")
        run = Run(tmp_path / "shop.parquet", tmp_path / "out", *options)
        assert run.wait() == 3, run.errors
    table = parquet.read_table(run.out / "labels")
    assert table["id"].to_pylist() == [f"S{n}" for n in range(100)]
    spec = load_artifact(shipped_model).spec
    assert set(table["category"].to_pylist()) <= set(spec.heads["category"])
    assert len(table["embedding"][0]) == spec.embedding.dimensions
    (failure,) = failures_of(run.out)
    assert failure["reason"] == "a photo that can't be fetched: HTTP status 404"

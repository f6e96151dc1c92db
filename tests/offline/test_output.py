"""Claims about the directory of a run: a part gets there once, whatever is killed."""

import json

import pytest

from offline.output import Counts, Output, OutputError
from offline.rows import Failure

RUN = {"model": "fashion", "input_digest": "a1"}
ROW = b'{"id":"1"}\n'


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


class Ended(BaseException):
    """The process has ended."""


def end():
    raise Ended


def output(path, **changed):
    return Output(path, "jsonl", RUN | changed)


def files(path):
    return {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}


def test_a_run_ends_with_labels_failures_and_counts(out):
    run = output(out)
    with run.claimed():
        assert run.present([3, 1]) == set()
        run.commit(0, ROW * 2, [Failure("3", "3.jpg", "broken")])
        run.commit(1, ROW, [])
        assert run.finished() is None
        assert run.finish([3, 1], [Failure("", "", "no id")]) == Counts(3, 2)
        assert run.finished() == Counts(3, 2)
    assert files(out) == {
        "_SUCCESS", "failed.jsonl", "labels/part-00000.jsonl", "labels/part-00001.jsonl",
        "run.json", "run.lock",
    }  # fmt: skip
    success = json.loads((out / "_SUCCESS").read_text())
    assert success == RUN | {"labelled": 3, "failed": 2}
    lines = (out / "failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["no id", "broken"]


def test_another_run_finds_the_parts_that_are_complete_and_no_others(out):
    first = output(out)
    with first.claimed():
        first.present([1, 1])
        first.commit(1, ROW, [])
        killed = out / "parts" / "new-00000-0123"
        killed.mkdir()
        (killed / "labels.jsonl").write_bytes(b'{"id"')
    second = output(out)
    with second.claimed():
        assert second.present([1, 1]) == {1}
        assert not killed.exists()


def test_of_two_workers_that_finish_a_part_the_first_counts_as_a_whole(out):
    run = output(out)
    with run.claimed():
        run.present([])
        run.commit(0, ROW, [Failure("2", "2.jpg", "HTTP status 503")])
        run.commit(0, ROW * 2, [])
        assert run.finish([2], []) == Counts(1, 1)


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_kill_while_a_run_finishes_loses_nothing(out, moved):
    run = output(out)
    with run.claimed():
        run.present([])
        run.commit(0, ROW, [Failure("2", "2.jpg", "broken")])
        run.commit(1, ROW * 2, [])
        (out / "labels").mkdir()
        for part in range(moved):
            there = out / "labels" / f"part-{part:05}.jsonl"
            (out / "parts" / f"{part:05}" / "labels.jsonl").rename(there)
    again = output(out)
    with again.claimed():
        assert again.present([2, 2]) == {0, 1}
        assert again.finish([2, 2], []) == Counts(3, 1)


def test_a_kill_after_the_counts_leaves_a_run_that_is_complete(out):
    run = output(out)
    with run.claimed():
        run.present([])
        run.commit(0, ROW, [])
        run.finish([1], [])
    (out / "parts" / "00000").mkdir(parents=True)
    with output(out).claimed():
        assert output(out).finished() == Counts(1, 0)
    assert not (out / "parts").exists()


def test_a_part_that_lost_rows_is_not_counted_as_complete(out):
    run = output(out)
    with run.claimed():
        run.present([])
        run.commit(0, ROW, [])
        with pytest.raises(OutputError, match="label them anew"):
            run.finish([2], [])
    assert not (out / "_SUCCESS").exists()


@pytest.mark.parametrize("lost", ["labels.jsonl", "failed.jsonl"])
def test_a_part_that_the_disk_lost_rows_of_is_labelled_anew(out, lost):
    run = output(out)
    with run.claimed():
        run.present([2, 2])
        for part in range(2):
            run.commit(part, ROW, [Failure("2", "2.jpg", "broken")])
        (out / "parts" / "00001" / lost).write_bytes(b'{"id"')
    again = output(out)
    with again.claimed():
        assert again.present([2, 2]) == {0}
        again.commit(1, ROW * 2, [])
        assert again.finish([2, 2], []) == Counts(3, 1)


def test_another_model_or_input_is_refused_and_named(out):
    with output(out).claimed():
        pass
    with pytest.raises(OutputError, match="input_digest is b2, was a1") as refused:
        output(out, input_digest="b2").claimed().__enter__()
    assert "name another directory" in str(refused.value)


def test_a_directory_with_other_files_is_refused(out):
    out.mkdir()
    (out / "letter.txt").touch()
    with pytest.raises(OutputError, match=r"letter\.txt"):
        output(out).claimed().__enter__()


def test_a_kill_before_a_file_is_complete_leaves_nothing(out):
    for name in ("run.json", "failed.jsonl"):
        out.mkdir(exist_ok=True)
        (out / f".{name}-0123.new").write_bytes(b"{")
        with output(out).claimed():
            assert files(out) == {"run.json", "run.lock"}


@pytest.mark.parametrize("contents", [b"", b'{"model":', b"\0\0\0", b"[]"])
def test_a_damaged_description_of_the_run_is_refused(out, contents):
    with output(out).claimed():
        pass
    (out / "run.json").write_bytes(contents)
    with pytest.raises(OutputError, match=r"run\.json is damaged; name another directory"):
        output(out).claimed().__enter__()


def test_damaged_counts_are_refused(out):
    run = output(out)
    with run.claimed():
        run.present([])
        run.finish([], [])
        (out / "_SUCCESS").write_bytes(b"{")
        with pytest.raises(OutputError, match="_SUCCESS is damaged"):
            run.finished()


def test_parts_that_cant_be_removed_do_not_fail_a_run_that_is_complete(out, monkeypatch):
    run = output(out)
    with run.claimed():
        run.present([])
        monkeypatch.setattr("os.rmdir", refuse)
        assert run.finish([], []) == Counts(0, 0)
        assert run.finished() == Counts(0, 0)


def refuse(*_, **__):
    raise PermissionError("another user owns it")


def test_two_runs_at_the_same_time_are_refused(out):
    with output(out).claimed(), pytest.raises(OutputError, match="another run writes"):
        output(out).claimed().__enter__()


def test_a_photo_that_ends_its_process_twice_is_skipped(out):
    run = output(out)
    with run.claimed():
        run.present([])
        for _ in range(4):
            attempt = run.attempt(4, 10)
            assert attempt.skipped == {}
            assert [attempt.guard(at, lambda: "image") for at in range(5)] == ["image"] * 5
            with pytest.raises(Ended):
                attempt.guard(5, end)
            attempt.abandon()
        attempt, other = run.attempt(4, 10), run.attempt(40, 10)
        assert list(attempt.skipped) == [5]
        assert "ends the process" in attempt.skipped[5]
        assert other.skipped == {}
        attempt.abandon()
        other.abandon()


def test_a_part_whose_processes_end_with_no_photo_to_blame_is_given_up(out):
    run = output(out)
    with run.claimed():
        run.present([])
        for _ in range(30):
            attempt = run.attempt(4, 3)
            assert attempt.skipped == {}
            attempt.guard(0, lambda: "image")
            attempt.abandon()
        attempt = run.attempt(4, 3)
        assert attempt.skipped == dict.fromkeys(range(3), "30 processes ended in its part")
        attempt.abandon()


def test_an_attempt_that_is_complete_leaves_nothing(out):
    run = output(out)
    with run.claimed():
        run.present([])
        run.attempt(4, 1).complete()
        assert list((out / "parts").iterdir()) == []

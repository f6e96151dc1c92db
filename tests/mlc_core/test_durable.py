"""Claims about writes: whole or not at all, and on the disk."""

import os
import resource
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlc_core.durable import append, replacing


@contextmanager
def largest_file(size_bytes):
    """A disk that is full when a file has this size, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_finds_the_disk_full_leaves_nothing_behind(tmp_path):
    file = tmp_path / "lines"
    append(file, b"first\n")
    with largest_file(10), pytest.raises(OSError, match="too large"):
        append(file, b"second\n")
    assert file.read_bytes() == b"first\n"
    append(file, b"third\n")
    assert file.read_bytes() == b"first\nthird\n"


def test_lines_of_many_threads_are_all_there(tmp_path):
    file = tmp_path / "lines"
    lines = [b"%d\n" % number for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda line: append(file, line), lines))
    assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_a_file_keeps_its_contents_until_the_new_ones_are_complete(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with replacing(file, 0o600) as new:
        new.write(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"
    with largest_file(10), pytest.raises(OSError, match="too large"), replacing(file, 0o600) as new:
        new.write(bytes(11))
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_many_threads_replace_one_file(tmp_path):
    def replace(number):
        with replacing(tmp_path / "file", 0o600) as new:
            new.write(b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(replace, range(100)))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_names_of_new_files_are_synced_too(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def recorded(descriptor):
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    file = tmp_path / "file"
    append(file, b"line\n")
    assert synced == [str(file), str(tmp_path)]
    synced.clear()
    with replacing(file, 0o600):
        pass
    new, folder = synced
    assert new.startswith(f"{tmp_path}/.file-")
    assert folder == str(tmp_path)

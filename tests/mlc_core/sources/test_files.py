"""Claims about files that other people name: none is read without an end."""

import os
import tracemalloc
import zipfile

import pytest

from mlc_core.sources.files import Unreadable, reader_of

MOST_BYTES = 1000
ZEROS = bytes(50_000_000)


def read(root, name):
    with reader_of(root, "name another", MOST_BYTES) as reader:
        return reader(name)


def packed(path, contents, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a.jpg", contents)
    return path


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "folder.jpg", "/dev/zero"):
        with pytest.raises(Unreadable, match="is no regular file"):
            read(tmp_path, name)


def test_a_file_may_be_as_large_as_allowed_and_no_larger(tmp_path):
    for size_bytes in (MOST_BYTES, MOST_BYTES + 1):
        contents = os.urandom(size_bytes)
        (tmp_path / "a.jpg").write_bytes(contents)
        for root in (tmp_path, packed(tmp_path / "a.zip", contents)):
            if size_bytes == MOST_BYTES:
                assert read(root, "a.jpg") == contents
            else:
                with pytest.raises(Unreadable, match="over 1000 bytes"):
                    read(root, "a.jpg")


def test_a_file_that_does_not_say_its_size_is_read_as_far_as_allowed(tmp_path):
    assert read(tmp_path, "/proc/self/comm")
    with pytest.raises(Unreadable, match="over 1000 bytes"):
        read(tmp_path, "/proc/self/smaps")


def test_a_zip_that_lies_about_a_size_fills_no_memory(tmp_path):
    path = packed(tmp_path / "lies.zip", ZEROS)
    truth, lie = (size.to_bytes(4, "little") for size in (len(ZEROS), 10))
    assert path.read_bytes().count(truth) == 2
    path.write_bytes(path.read_bytes().replace(truth, lie))
    tracemalloc.start()
    with pytest.raises(Unreadable) as error:
        read(path, "a.jpg")
    most_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.value.reason == "unreadable photo"
    assert most_bytes < 1_000_000


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_unpacks_without_bounds_is_refused(tmp_path, compression):
    path = packed(tmp_path / "a.zip", b"photo", compression)
    with pytest.raises(Unreadable, match="neither stored nor deflated"):
        read(path, "a.jpg")

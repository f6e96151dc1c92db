"""Reads files from a directory or a zip file, as people have them."""

from __future__ import annotations

import lzma
import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from mlc_core.errors import DataSetError

TABLE = "styles.csv"
MAX_PHOTO_BYTES = 10 * 2**20  # where others name the photos: clients, and the table of a catalogue
_NAME_ONE = f"name a directory or a zip file with {TABLE} and images/"
_UNPACK = "unpack the zip with the program that made it, and name the directory"
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # a KiB of bzip2 may unpack to a GiB at once
_ENCRYPTED, _UTF_8 = 0x1, 0x800  # flags of a file in a zip
# What Python's readers of zip files and file systems raise for contents that are broken.
_BROKEN = (
    OSError, EOFError, RuntimeError, ValueError, OverflowError, struct.error, zlib.error,
    lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip

Read = Callable[[str], bytes]
Progress = Callable[[str], None]  # takes a line for the person who waits


class Unreadable(Exception):
    """A file of the data set is missing or broken.

    Attributes:
        reason: why the row of such a photo is skipped; the same for all of a kind.
        advice: what to do about it.
    """

    def __init__(self, reason: str, why: str, advice: str = "restore it") -> None:
        super().__init__(why)
        self.reason, self.advice = reason, advice


class Files(NamedTuple):
    """The files of a directory or a zip.

    Attributes:
        names: of all files, with "/" between folders.
        read: reads a file by its name, or raises Unreadable.
    """

    names: Collection[str]
    read: Read


@contextmanager
def opened(path: Path) -> Iterator[Read]:
    """Yield a function that reads a file of the data set by its name, or raises Unreadable.

    Raises:
        DataSetError: there is no data set at this path.
    """
    with files_of(path, _NAME_ONE) as files:
        inside = _root(path, files.names)
        yield lambda name: files.read((inside / name).as_posix())


@contextmanager
def files_of(path: Path, advice: str) -> Iterator[Files]:
    """Yield the files of a directory or a zip.

    Args:
        advice: what to name instead.

    Raises:
        DataSetError: there is neither at this path.
    """
    if path.is_dir():
        found = (file for file in path.rglob("*") if file.is_file())
        names = [file.relative_to(path).as_posix() for file in found]
        yield Files(names, lambda name: _read(path / name))
        return
    with _archive(path, advice) as files:
        yield files


@contextmanager
def reader_of(path: Path, advice: str, max_bytes: int | None = None) -> Iterator[Read]:
    """Yield what reads the files of a directory or a zip; it lists no directory.

    Args:
        advice: what to name instead.
        max_bytes: of a file; a larger one is Unreadable.

    Raises:
        DataSetError: there is neither at this path.
    """
    if path.is_dir():
        yield lambda name: _read(path / name, max_bytes)
        return
    with _archive(path, advice, max_bytes) as files:
        yield files.read


@contextmanager
def _archive(path: Path, advice: str, max_bytes: int | None = None) -> Iterator[Files]:
    if not path.exists():
        raise DataSetError(f"there is nothing at {path}; {advice}")
    try:
        archive = zipfile.ZipFile(path)
    except _BROKEN as error:
        raise DataSetError(
            f"{path} is neither a directory nor a zip file that can be read ({error}); {advice}"
        ) from error
    with archive:
        infos = {_name(info): info for info in archive.infolist() if not info.is_dir()}
        yield Files(infos, lambda name: _unpack(archive, infos.get(_composed(name)), max_bytes))


def _root(path: Path, names: Iterable[str]) -> PurePosixPath:
    """The folder that holds the table, the topmost one if there are several."""
    tables = [file for file in map(PurePosixPath, names) if file.name == TABLE]
    if not tables:
        raise DataSetError(f"{path}: no {TABLE} in it")
    return min(tables, key=lambda table: (len(table.parts), table)).parent


def _read(file: Path, max_bytes: int | None = None) -> bytes:
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe never ends, nor does /dev/zero
            raise Unreadable("unreadable photo", f"{file} is no regular file", "name a file")
        with file.open("rb") as opened_file:
            return _contents(opened_file, os.fstat(opened_file.fileno()).st_size, max_bytes)
    except FileNotFoundError as error:
        raise Unreadable("no photo", f"no {file}") from error
    except _BROKEN as error:
        raise Unreadable("unreadable photo", str(error)) from error


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, max_bytes: int | None) -> bytes:
    if info is None:
        raise Unreadable("no photo", "it is not there")
    if info.flag_bits & _ENCRYPTED:
        raise Unreadable("encrypted photo", "it is encrypted", _UNPACK)
    if max_bytes is not None and info.compress_type not in _BOUNDED:
        raise Unreadable(
            "photo in an unsupported compression", "it is neither stored nor deflated", _UNPACK
        )
    try:
        with archive.open(info) as member:
            return _contents(member, info.file_size, max_bytes)
    except NotImplementedError as error:
        raise Unreadable(
            "photo in an unsupported compression", str(error).rstrip("."), _UNPACK
        ) from error
    except _BROKEN as error:
        raise Unreadable("unreadable photo", str(error)) from error


def _contents(opened_file: IO[bytes], declared_bytes: int, max_bytes: int | None) -> bytes:
    """The contents of a file, whose declared size may be wrong."""
    if max_bytes is None:
        return opened_file.read()
    if declared_bytes <= max_bytes:
        contents = opened_file.read(declared_bytes + 1)  # with room for the most: 20 µs longer
        if len(contents) > declared_bytes:
            contents += opened_file.read(max_bytes + 1 - len(contents))
        if len(contents) <= max_bytes:
            return contents
    raise Unreadable("too large a photo", f"it has over {max_bytes} bytes", "shrink it")


def _name(info: zipfile.ZipInfo) -> str:
    """The name of a file in a zip as other programs understand it.

    Some on Windows write backslashes, and some elsewhere write UTF-8 without saying so.
    """
    name = info.filename
    if not info.flag_bits & _UTF_8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return _composed(PurePosixPath(name.replace("\\", "/")).as_posix())


def _composed(name: str) -> str:
    """A name as most programs write it; macOS writes accents as characters of their own."""
    return unicodedata.normalize("NFC", name)

"""Writes that survive a crash: a file is replaced at once, a line is there as a whole or not."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

UNFINISHED = ".new"  # ends the names of files that `replacing` has not renamed yet

_ONE_APPENDS = Lock()  # so that no other thread's line is behind the one that is cut off


def sync(path: Path) -> None:
    """Wait until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(file: Path, mode: int) -> Iterator[BinaryIO]:
    """Yield a new file, which gets this name when it is complete and on the disk.

    A process that reads the file meanwhile sees the old one or the new one.

    Args:
        mode: its permissions, less those that the umask takes.
    """
    new = file.with_name(f".{file.name}-{secrets.token_hex(8)}{UNFINISHED}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as target:
            yield target
            target.flush()
            os.fsync(descriptor)
        new.rename(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync(file.parent)


def append(file: Path, line: bytes, mode: int = 0o600) -> None:
    """Append a line, all of it or nothing. No two processes may append to one file.

    Args:
        mode: the permissions of a new file, less those that the umask takes.

    Raises:
        OSError: it can't be stored; the file is as long as before.
    """
    with _ONE_APPENDS:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
        try:
            before = os.fstat(descriptor).st_size
            try:
                left = memoryview(line)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
                if not before:
                    sync(file.parent)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)

"""The file of API keys: read, checked, and changed by `mlc keys`. It holds hashes, never a key.

A key has 256 random bits and can't be guessed, so SHA-256 protects it as well as a slow hash of
passwords would, at a microsecond per request.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mlc_core.durable import replacing
from mlc_core.errors import KeysError
from mlc_core.profiles import PROFILE_NAME, PROFILE_NAMES

MAX_KEYS = 1000  # a metric has their names as a label
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Key(NamedTuple):
    """One key of the file.

    Attributes:
        name: of the client; unique in the file.
        sha256: hash of the key, 32 bytes.
        photos_per_s: the client's rate.
        expires: when it stops being valid, with a time zone.
        writes: whether it may change the catalogue and give feedback.
        profile: whose words its answers have, unless a request names another; "" for the model's.
    """

    name: str
    sha256: bytes
    photos_per_s: float
    expires: datetime
    writes: bool = False
    profile: str = ""


def hash_of(key: bytes) -> bytes:
    """The hash of a key as a client sends it."""
    return hashlib.sha256(key).digest()


def read_keys(file: Path) -> list[Key]:
    """The keys of a file, in its order.

    Raises:
        KeysError: the file can't be read, or is wrong; says where, and what is expected.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise KeysError(
            f"{file} can't be read: {error.strerror}; `mlc keys add` creates a file of keys"
        ) from error
    except ValueError as error:
        raise KeysError(f"{file} is not JSON: {error}") from error
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise KeysError(f'{file} is no file of keys: it needs {{"keys": [ … ]}}')
    if len(entries) > MAX_KEYS:
        raise KeysError(f"{file} has {len(entries)} keys; at most {MAX_KEYS} are allowed")
    keys = []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(_parse(entry))
        except ValueError as error:
            raise KeysError(f"{file}: key {number}: {error}") from error
    for field in ("name", "sha256"):
        values = [getattr(key, field) for key in keys]
        for number, value in enumerate(values, 1):
            if value in values[: number - 1]:
                raise KeysError(f"{file}: key {number} has the {field} of another key")
    return keys


def add_key(
    file: Path,
    name: str,
    photos_per_s: float,
    expires: datetime,
    *,
    writes: bool = False,
    profile: str = "",
) -> str:
    """Add a new key to a file, which is created if it is missing.

    Returns:
        The key. It is nowhere else: the file has its hash.

    Raises:
        KeysError: the name is wrong or taken, or the file is wrong.
    """
    plain = f"mlc_{secrets.token_urlsafe(32)}"
    try:
        new = Key(name, hash_of(plain.encode()), photos_per_s, expires, writes, profile)
        key = _parse(_fields(new))
    except ValueError as error:
        raise KeysError(str(error)) from error
    with _locked(file):
        keys = read_keys(file) if file.exists() else []
        if name in (each.name for each in keys):
            raise KeysError(
                f"{file} has a key named {name!r}; choose another name, as {name}-2, "
                "and revoke the old one when its client has changed over"
            )
        if len(keys) == MAX_KEYS:
            raise KeysError(f"{file} has {MAX_KEYS} keys; revoke one first")
        _write(file, [*keys, key])
    return plain


def revoke_key(file: Path, name: str) -> None:
    """Remove a key from a file.

    Raises:
        KeysError: there is no key of that name, or the file is wrong.
    """
    with _locked(file):
        keys = read_keys(file)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise KeysError(f"{file} has no key named {name!r}; it has: {names}")
        _write(file, left)


def _parse(entry: Any) -> Key:
    """Raise ValueError if the entry is wrong."""
    needed = {"name", "sha256", "photos_per_s", "expires"}
    if not isinstance(entry, dict) or set(entry) - {"writes", "profile"} != needed:
        raise ValueError(
            "expected an object with name, sha256, photos_per_s, expires and perhaps writes and "
            "profile"
        )
    name, sha256, rate, expires = (
        entry[field] for field in ("name", "sha256", "photos_per_s", "expires")
    )
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"name = {name!r}: expected 1 to 63 of a-z, 0-9, '_', '.' and '-', no sign first"
        )
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"sha256 = {sha256!r}: expected 64 hexadecimal digits, lower case")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise ValueError(f"photos_per_s = {rate!r}: expected a number above 0")
    try:
        until = datetime.fromisoformat(expires)
    except (TypeError, ValueError):
        until = None
    if until is None or until.tzinfo is None:
        raise ValueError(
            f"expires = {expires!r}: expected a time with its zone, as 2027-01-31T00:00:00+00:00"
        )
    writes = entry.get("writes", False)
    if not isinstance(writes, bool):
        raise ValueError(f"writes = {writes!r}: expected true or false")
    profile = entry.get("profile", "")
    if not isinstance(profile, str) or (profile and not PROFILE_NAME.fullmatch(profile)):
        raise ValueError(f"profile = {profile!r}: expected {PROFILE_NAMES}")
    return Key(name, bytes.fromhex(sha256), float(rate), until, writes, profile)


def _fields(key: Key) -> dict[str, Any]:
    expires = key.expires.astimezone(UTC).isoformat(timespec="seconds")
    fields = {**key._asdict(), "sha256": key.sha256.hex(), "expires": expires}
    if not key.profile:  # services from before profiles can read the file
        del fields["profile"]
    return fields


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Keep other commands from changing the files of this directory, so that no change is lost."""
    directory = os.open(file.resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _write(file: Path, keys: list[Key]) -> None:
    """Replace a file at once: a service that reads it meanwhile sees the old or the new one.

    Its permissions stay; a new file is for its owner alone.
    """
    target = file.resolve()  # a link stays a link
    text = json.dumps({"keys": [_fields(key) for key in keys]}, indent=1) + "\n"
    with replacing(target, 0o600) as new:
        new.write(text.encode())
        if target.exists():
            before = target.stat()
            os.fchmod(new.fileno(), before.st_mode & 0o777)
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(new.fileno(), before.st_uid, before.st_gid)

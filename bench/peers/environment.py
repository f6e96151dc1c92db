"""The peers' own virtual environment. It is rebuilt when requirements.txt or Python changes.

It is separate from .venv, so that the peers' dependencies do not constrain this service's.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from bench.peers.errors import PeerError

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
# These do most of the work. With other versions, the command would not compare servers only.
_SAME_AS_OURS = ("onnxruntime", "pillow", "simplejpeg")


def make_environment(folder: Path, say: Callable[[str], None]) -> Path:
    """Create the environment if needed, from the Python that runs this process.

    Returns:
        The path of the environment's Python.

    Raises:
        PeerError: pip can't install the peers, or they would run another engine or decoder.
    """
    for name in _SAME_AS_OURS:
        if pinned()[name] != version(name):
            raise PeerError(
                f"{REQUIREMENTS} pins {name} {pinned()[name]}, this service runs {version(name)}: "
                "pin the same version, so that only the servers differ"
            )
    python, stamp = folder / "bin/python", folder / "requirements.sha256"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    say(f"installing the peers into {folder} (a minute, once) …")
    shutil.rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "venv", folder)
    _run(
        python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--requirement", REQUIREMENTS,
    )  # fmt: skip
    stamp.write_text(digest)
    return python


def pinned() -> dict[str, str]:
    """Package -> version, without packages whose version depends on that of Python."""
    lines = REQUIREMENTS.read_text(encoding="utf-8")
    return dict(re.findall(r"^(\S+)==(\S+)$", lines, re.MULTILINE))


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise PeerError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}".rstrip())

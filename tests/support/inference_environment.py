"""An environment with clients of the Open Inference Protocol, and calls of them in it."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from services import PROJECT, environment

_REQUIREMENTS, _CALLS = (
    Path(__file__).with_name(name) for name in ("inference_clients.txt", "inference_calls.py")
)


def make_environment(
    folder: Path = PROJECT / ".clients", requirements: Path = _REQUIREMENTS
) -> Path:
    """Create the environment if needed; returns the path of its Python."""
    python, stamp = folder / "bin/python", folder / "requirements.sha256"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]
    subprocess.run([python, *install, requirements], check=True)
    stamp.write_text(digest)
    return python


class Clients:
    """Calls a service by clients that run in their own environment."""

    def __init__(self, python: Path, url: str) -> None:
        self._python, self._address = python, url.removeprefix("http://")

    def __call__(self, client: str, method: str, *arguments: Any, **options: Any) -> Any:
        """What a method of a client returns, see inference_calls.py; an error as its text."""
        request = pickle.dumps((self._address, client, method, arguments, options))
        done = subprocess.run(
            [self._python, _CALLS], input=request, capture_output=True, timeout=100, check=False,
            env=environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return pickle.loads(done.stdout)  # noqa: S301  (ours)

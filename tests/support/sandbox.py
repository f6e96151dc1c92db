"""Runs scripts in a new network and process namespace: default ports, no process left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from services import PROJECT, environment

_UNSHARE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def run_in_namespace(script: str, home: Path, within_s: float) -> str:
    """Run a bash script at the project's root with `home` as its home; return what it printed.

    Skips the test if namespaces can't be created, except in CI.
    """
    possible = (
        shutil.which("ip") and not subprocess.run([*_UNSHARE, "true"], check=False).returncode
    )
    if not possible and os.environ.get("CI") != "true":
        pytest.skip("needs ip (scripts/install-test-packages) and the right to make namespaces")
    script = f"set -euo pipefail; ip link set lo up; {script}"
    done = subprocess.run(
        [*_UNSHARE, "bash", "-c", script], cwd=PROJECT, check=False, timeout=within_s,
        capture_output=True, text=True,
        env=environment(HOME=str(home), NO_PROXY="127.0.0.1,localhost"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

"""Runs scripts in namespaces of their own: default ports, Ray's nodes, no process left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from services import PROJECT, environment

_UNSHARE = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def run_in_namespace(script: str, home: Path, within_s: float) -> str:
    """Run a bash script at the project's root with `home` as its home; return what it printed.

    Skips the test if namespaces can't be created, except in CI.
    """
    _need_namespaces()
    script = f"set -euo pipefail; ip link set lo up; {script}"
    done = subprocess.run(
        [*_UNSHARE, "bash", "-c", script], cwd=PROJECT, check=False, timeout=within_s,
        capture_output=True, text=True,
        env=environment(HOME=str(home), NO_PROXY="127.0.0.1,localhost"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_nodes(script: str, asked: Mapping[str, Any], within_s: float) -> dict[str, Any]:
    """Run a script beside this one that plugs Ray's nodes together; return what it found.

    Skips the test as `run_in_namespace` does.

    Args:
        asked: what the script reads, beside the folder that it may fill.
    """
    _need_namespaces()
    support = Path(__file__).parent
    # Its name is short: those of Ray's sockets begin with it.
    with tempfile.TemporaryDirectory(prefix="mlc-", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [*_UNSHARE, sys.executable, support / script], cwd="/", check=False, timeout=within_s,
            input=json.dumps({**asked, "folder": folder}), capture_output=True, text=True,
            env=environment(PYTHONPATH=f"{PROJECT}:{support}"),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _need_namespaces() -> None:
    possible = (
        shutil.which("ip") and not subprocess.run([*_UNSHARE, "true"], check=False).returncode
    )
    if not possible and os.environ.get("CI") != "true":
        pytest.skip("needs ip (scripts/install-test-packages) and the right to make namespaces")

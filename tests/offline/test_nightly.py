"""Claims about the nightly run of docs/integrate.md, with the programs that the page prints."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import write_programs
from services import environment

from mlc_core.spec import HEADS
from samples.shop import write_shop

pytest.importorskip("pandas", reason="Ray Data needs it; make test-catalog has it")
pytestmark = pytest.mark.long


def test_the_nightly_run_writes_a_table_and_does_nothing_twice(tmp_path):
    write_programs(tmp_path)
    write_shop(tmp_path / "shop", 150)

    def run():
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = ["bash", "nightly.sh", "shop/products.csv", "labels"]
        subprocess.run(command, cwd=tmp_path, env=environment(PATH=path), check=True, timeout=120)

    run()
    with (tmp_path / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", *HEADS]
    assert {row["id"] for row in rows} == {f"P{n:05}" for n in range(150)}
    assert {"Tshirts", "Handbags"} <= {row["category"] for row in rows}
    success = tmp_path / "labels/_SUCCESS"
    written = success.stat().st_mtime_ns
    run()
    assert success.stat().st_mtime_ns == written

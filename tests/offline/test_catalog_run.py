"""Claims about the bench of `mlc catalog`."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from services import PROJECT, environment

from bench import catalog_run


@pytest.mark.long
def test_it_measures_a_run_beside_a_loop():
    pytest.importorskip("pandas", reason="Ray Data needs it; make test-catalog has it")
    ended = subprocess.run(
        [sys.executable, "-m", "bench.catalog_run", "--photos", "200", "--rounds", "1"],
        check=False, cwd=PROJECT, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode in {0, 1}, ended.stderr  # so few photos say nothing of the goal
    *_, verdict, measured = ended.stdout.splitlines()
    assert "of the loop's throughput" in verdict
    (only,) = json.loads(measured)["rounds"]
    assert min(only.values()) > 0


def test_photos_whose_drawing_was_interrupted_are_drawn_again(tmp_path, monkeypatch):
    drawn = []

    def draw(file, number):
        if len(drawn) == 2:
            drawn.clear()
            raise KeyboardInterrupt
        drawn.append(number)
        file.write_bytes(b"photo")

    monkeypatch.setattr(catalog_run, "_draw", draw)
    monkeypatch.setattr(
        catalog_run, "ProcessPoolExecutor", lambda cores, context: ThreadPoolExecutor(cores)
    )
    source = tmp_path / "drawn"
    with pytest.raises(KeyboardInterrupt):
        catalog_run._drawn(source, 3, 1)
    monkeypatch.setattr(catalog_run, "_draw", lambda file, number: file.write_bytes(b"photo"))
    files = catalog_run._drawn(source, 3, 1)
    assert [file.read_bytes() for file in files] == [b"photo"] * 3
    assert list(tmp_path.iterdir()) == [source]

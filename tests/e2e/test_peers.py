"""`make peers`, in small: this service beside one peer, which names the same labels."""

import shutil

import pytest
from services import bench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed"),
]


def test_peers_are_measured_beside_this_service_with_the_same_model(tmp_path):
    options = "--peers mosec,fastapi --precision int8 --connections 8 --rounds 1 --seconds 1"
    command = ["make", "peers", f"ARGS={options}"]
    rows = bench(command, tmp_path, within_s=800)["rows"]
    assert {row["server"] for row in rows} == {"this service", "mosec", "fastapi"}
    for row in rows:
        assert row["rate"][0] > 0
        assert row["core_ms"][0] > 0
    assert "| mosec" in (tmp_path / "peers.md").read_text()

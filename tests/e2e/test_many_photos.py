"""`make many-photos`, in small: one round of calls with a few photos, by both APIs."""

import shutil

import pytest
from services import line_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed"),
]


def test_what_a_photo_costs_is_measured_in_both_apis(tmp_path):
    options = "--rounds 1 --seconds 1 --connections 2 --photos 4"
    line = line_of(["make", "many-photos", f"ARGS={options}"], tmp_path, within_s=240)
    figures = line["figures"]
    sides = {name.partition(":")[0] for name in figures}
    assert sides == {
        "batch, 4 photos", "V2, 4 photos", "V2, 4 photos, one class each", "V2, 100 photos",
        "V2, 4 images",
    }  # fmt: skip
    for side in sides:
        (core_ms,), (photos_per_s,) = (
            figures[f"{side}: {unit}"] for unit in ("core-ms", "photos/s")
        )
        assert 0 < core_ms < 1000
        assert photos_per_s > 1
    (ratio,) = figures["V2, 4 photos: core-ms to those of batch, 4 photos"]
    costs = [figures[f"{side}, 4 photos: core-ms"][0] for side in ("V2", "batch")]
    assert ratio == pytest.approx(costs[0] / costs[1])

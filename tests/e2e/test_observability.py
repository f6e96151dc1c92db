"""`make observability`, in small: one service with and without, a day of half a minute drawn."""

import shutil

import pytest
from PIL import Image
from services import bench, needs_prometheus

from monitoring.dashboard import ROWS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    needs_prometheus,
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed"),
]


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """The folder of the pictures, and the line of JSON."""
    folder = tmp_path_factory.mktemp("observed")
    command = ["make", "observability", "ARGS=--rounds 1 --seconds 1 --part 4"]
    line = bench(command, folder, within_s=400)
    return folder, line


def test_what_observing_costs_is_measured_with_and_without(observed):
    figures = observed[1]
    for side in ("with", "without"):
        whole = figures[f"{side}: core-ms per photo"]["median"]
        assert 0 < figures[f"{side}, Ingress: core-ms per photo"]["median"] < whole
    assert 0.3 < figures["ratio of with to without"]["median"] < 3


def test_every_row_of_the_dashboard_is_drawn(observed):
    for row in ROWS:
        picture = observed[0] / f"dashboard/{row.lower().replace(' ', '-')}.png"
        with Image.open(picture) as image:
            assert len(image.convert("RGB").getcolors(2**24)) > 20  # something is on it

"""`make capacity`, in small: one composition around an emulated engine, measured and planned."""

import re
import shlex
import shutil

import pytest
import yaml
from readme import printed
from services import PROJECT, bench, with_args

from deployments.serve_config import ServeConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed"),
]
CONFIG = PROJECT / "configs/rehearsal.yaml"


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folder of the results, and the line of JSON."""
    folder = tmp_path_factory.mktemp("capacity")
    command = with_args(
        shlex.split(printed("make capacity")),
        "--replicas", "1", "--batches", "8", "--rounds", "1", "--seconds", "3", "--target", "40",
    )  # fmt: skip
    line = bench(command, folder, within_s=400)
    return folder, line


def test_what_an_engine_costs_is_found_from_outside(searched):
    engine = searched[1]["costs"]["engine"]
    assert engine["each_s"] == pytest.approx(0.05, rel=0.2)
    assert engine["photo_s"] == pytest.approx(0.008, rel=0.2)


def test_the_search_ends_between_a_rate_that_kept_p99_and_one_that_did_not(searched):
    (found,) = searched[1]["results"]
    (rate,) = found["measured"]
    assert 0.4 * 8 / 0.114 < rate < 1.3 * 8 / 0.114  # what the engine could do at the most
    outcomes = {probe["rate"]: probe["kept"] for probe in found["probes"]}
    assert outcomes[rate]
    assert not outcomes[min(tried for tried in outcomes if tried > rate)]


def test_the_ceiling_of_the_pipeline_is_that_of_an_engine_that_costs_nothing(searched):
    ceiling = searched[1]["ceiling"]
    assert ceiling["photos/s"] > 300  # the emulated engine does 70
    processes = ceiling["core-ms per photo, by process"]
    assert {"HAProxy", "Ingress", "Preprocessor", "Classifier"} <= processes.keys()
    assert sum(processes.values()) == pytest.approx(ceiling["core-ms per photo"])


def test_the_recommended_values_say_why_and_fit_the_config(searched):
    text = (searched[0] / "rehearsal.recommended.yaml").read_text()
    assert re.match(r"# For 40 photos/s, at 70% of the capacity; (measured|planned)", text)
    done = ServeConfig.read(CONFIG).merge(yaml.safe_load(text))
    done.check()
    assert done.deployments["Classifier"]["num_replicas"] >= 1


def test_a_picture_shows_measured_beside_predicted(searched):
    assert (searched[0] / "rehearsal.png").stat().st_size > 5_000

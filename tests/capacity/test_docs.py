"""Claims about docs/capacity.md: its tables are what was measured, and what is planned of it."""

import json
import shlex
import subprocess

import pytest
import yaml
from readme import printed
from services import PROJECT

from capacity.search import SearchResult, ceiling_table, results_table
from deployments.serve_config import ServeConfig

FOLDER = PROJECT / "docs/capacity"
PAGE = (PROJECT / "docs/capacity.md").read_text(encoding="utf-8")
MEASURED = {"serve_config": "serve_config.yaml", "rehearsal": "configs/rehearsal.yaml"}


def result(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("name", MEASURED)
def test_measured_and_predicted_rates_are_those_of_the_run(name):
    results = [SearchResult(**each) for each in result(name)["results"]]
    assert results_table(results) in PAGE


def test_the_ceiling_is_that_of_the_run():
    assert ceiling_table(result("serve_config")["ceiling"]) in PAGE


def test_the_planner_is_within_a_fifth_of_what_was_measured_on_compositions_it_was_not_fitted_to():
    found = [SearchResult(**each) for each in result("rehearsal")["results"]]
    largest = max(each.batch for each in found)
    fitted = [each for each in found if each.classifiers == 1 and each.batch == largest]
    others = [each for each in found if each not in fitted]
    assert len(others) >= 5
    for each in others:
        assert 0.8 <= each.ratio <= 1.2, each.name


@pytest.mark.slow
def test_the_plan_on_the_page_is_what_make_plan_prints():
    done = subprocess.run(
        shlex.split(printed("make plan")), cwd=PROJECT, capture_output=True, text=True, check=True,
        timeout=280,
    )  # fmt: skip
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 4
    for row in rows:
        assert row in PAGE


@pytest.mark.parametrize("name", MEASURED)
def test_recommended_values_fit_their_config(name):
    recommended = yaml.safe_load((FOLDER / f"{name}.recommended.yaml").read_text())
    ServeConfig.read(PROJECT / MEASURED[name]).merge(recommended).check()

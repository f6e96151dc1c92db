"""Claims about loads over time, objectives and the verdict of a run."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from locust.env import Environment

from loadtest import levels
from loadtest.findings import Findings, percentile
from loadtest.report import BROKEN, KEPT, MISSED, report
from loadtest.scenario import Scenario
from loadtest.slo import Objectives, load_objectives


class Course(Scenario):
    """A scenario, for its name."""


class Run:
    """A Locust environment in which requests took so long, and its findings."""

    def __init__(self, tmp_path, answered=(), failed=(), open_loop=False):
        options = SimpleNamespace(out=str(tmp_path), open_loop=open_loop, peak=9, seconds=3)
        self.out, self.findings = tmp_path, Findings()
        self.environment = Environment(parsed_options=options)
        self.environment.shape_class = Course()
        stats = self.environment.stats
        self.findings.began -= 10
        for took_ms in (*answered, *(0 for _ in failed)):
            stats.log_request("POST", "/v1/classify", took_ms, 0)
        for fault in failed:
            stats.log_error("POST", "/v1/classify", fault)
            self.findings.counts["refused"] += fault.startswith("refused")

    def judge(self, **objectives):
        said = io.StringIO()
        code = report(self.environment, self.findings, Objectives(**objectives), said)
        self.line = json.loads(said.getvalue().splitlines()[-1])
        assert self.line == json.loads((self.out / "result.json").read_text())
        return code, said.getvalue()


def test_a_run_that_keeps_its_objectives_ends_with_0(tmp_path):
    run = Run(tmp_path, [10] * 99 + [400])
    assert run.judge(p50_s=0.02, p99_s=0.5, error_share=0, requests_per_s=5)[0] == KEPT == 0
    assert (tmp_path / "load.png").stat().st_size > 10_000
    assert run.line["measured"]["requests"] == 100


@pytest.mark.parametrize(
    "objective",
    [{"p50_s": 0.001}, {"p99_s": 0.005}, {"requests_per_s": 1000}],
)
def test_a_missed_objective_is_named_and_ends_with_1(tmp_path, objective):
    code, said = Run(tmp_path, [10] * 100).judge(**objective)
    assert code == MISSED == 1
    assert "MISSED" in said
    assert next(iter(objective)) in said


def test_refused_requests_are_no_errors_and_have_an_objective_of_their_own(tmp_path):
    run = Run(tmp_path, [10] * 90, ["refused: 503"] * 9 + ["status 500"])
    assert run.judge(error_share=0.01, refused_share=0.09)[0] == KEPT
    assert run.judge(error_share=0.009)[0] == MISSED
    assert run.judge(refused_share=0.08)[0] == MISSED


def test_a_run_that_nobody_answered_is_broken_not_missed(tmp_path):
    code, said = Run(tmp_path).judge()
    assert code == BROKEN == 2
    assert "is --host right" in said
    assert Run(tmp_path, failed=["no answer"] * 5).judge()[0] == BROKEN


def test_a_generator_that_is_late_by_much_of_what_it_measures_is_broken(tmp_path):
    run = Run(tmp_path, [200] * 100, open_loop=True)
    run.findings.late.update({1: 98, 20: 2})
    assert run.judge()[0] == KEPT
    run.findings.late.update({21: 2})
    code, said = run.judge()
    assert code == BROKEN
    assert "0.021 s late" in said


def test_dropped_arrivals_break_a_run(tmp_path):
    run = Run(tmp_path, [10] * 100, open_loop=True)
    run.findings.counts["dropped"] = 1
    code, said = run.judge()
    assert code == BROKEN
    assert "1 arrivals were dropped" in said


def test_every_report_says_which_clock_was_used(tmp_path):
    assert "open loop, Poisson arrivals" in Run(tmp_path, [1], open_loop=True).judge()[1]
    assert "closed loop" in Run(tmp_path, [1]).judge()[1]


def test_workers_hand_over_what_they_found_just_once():
    master, worker = Findings(), Findings()
    worker.late[7] += 2
    worker.versions["1"] += 3
    master.take(worker.hand_over())
    master.take(worker.hand_over())
    assert (master.late[7], master.versions["1"]) == (2, 3)


def test_a_percentile_is_the_value_that_its_share_does_not_exceed():
    assert percentile({10: 98, 500: 2}, 0.98) == 10
    assert percentile({10: 98, 500: 2}, 0.99) == 500


def test_a_spike_is_ten_times_the_load_within_a_second():
    assert levels.spike(19.9, 60) * 10 == pytest.approx(levels.spike(20.1, 60)) == 1
    assert levels.spike(40.1, 60) == 0.1


def test_a_sale_day_has_its_peak_in_the_evening_and_its_lull_at_night():
    loads = {hour: levels.sale_day(hour, 24) for hour in range(24)}
    assert max(loads, key=loads.get) == 20
    assert min(loads.values()) == loads[3] < 0.1
    assert loads[19] < levels.sale_day(19.5, 24) < loads[20]


def test_a_ramp_rises_from_nothing_to_the_peak():
    assert [levels.ramp(at_s, 10) for at_s in (0, 5, 10)] == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("level", "share"), [(levels.steady, 1), (levels.ramp, 1 / 2), (levels.spike, 0.4)]
)
def test_poisson_arrivals_follow_the_level_from_the_first_second_on(level, share):
    times = list(levels.arrivals(level, 500, 60, np.random.default_rng(1)))
    assert len(times) == pytest.approx(share * 500 * 60, rel=0.03)
    assert times == sorted(times)
    early = sum(at_s < 15 for at_s in times) / len(times)
    assert early == pytest.approx({1: 0.25, 0.5: 1 / 16, 0.4: 1 / 16}[share], abs=0.01)


def test_a_wrong_objective_is_refused_by_its_name(tmp_path):
    file = tmp_path / "slo.yaml"
    file.write_text("p98_s: 1\np50_s: fast\n")
    with pytest.raises(ValueError, match=r"(?s)slo.yaml.*p50_s.*p98_s"):
        load_objectives(file)

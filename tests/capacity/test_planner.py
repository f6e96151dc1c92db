"""Claims about planning: the least that keeps the objective, and an error where nothing does."""

from dataclasses import replace

import pytest
from services import PROJECT

from capacity.planner import compose, highest_rate, main, plan
from capacity.search import values
from capacity.simulation import Cost, Costs, simulate
from deployments.serve_config import ServeConfig
from loadtest.percentiles import p99

COSTS = Costs(
    client=Cost(0, 0), front=Cost(0, 0.00005), ingress=Cost(0.0005, 0.0002),
    preprocessor=Cost(0.001, 0.00015), classifier=Cost(0.0005, 0.00005),
    engine=Cost(0.05, 0.008), engine_takes_core=False, hop_s=0.0005,
)  # fmt: skip


@pytest.mark.parametrize("limit", [3, 40, 90, 250, 700])
def test_bisection_finds_the_limit_wherever_it_is(limit):
    tried = []

    def keeps(rate):
        tried.append(rate)
        return rate <= limit

    found = highest_rate(keeps, 100)
    assert limit / 1.04 <= found <= limit
    assert len(tried) < 20


def test_nothing_is_found_where_no_rate_keeps():
    assert highest_rate(lambda _: False, 100) == 0


@pytest.mark.long
@pytest.mark.parametrize("rate", [20, 150, 600])
def test_a_plan_keeps_the_objective_and_one_classifier_less_does_not(rate):
    planned = plan(COSTS, rate, 0.5, headroom=0.7)
    unit = planned.unit

    def p99_s(classifiers):
        fewer = compose(classifiers, unit.batch.max_items, unit.preprocessors)
        return p99(simulate(COSTS, fewer, rate / 0.7 / planned.units, 5).latencies_s)

    assert p99_s(unit.classifiers) <= 0.5
    assert unit.classifiers == 1 or p99_s(unit.classifiers - 1) > 0.5


@pytest.mark.long
def test_a_shorter_objective_needs_more():
    loose, strict = plan(COSTS, 300, 0.5), plan(COSTS, 300, 0.2)
    assert strict.classifiers > loose.classifiers
    assert strict.unit.batch.max_items <= loose.unit.batch.max_items


@pytest.mark.long
def test_what_one_ingress_can_not_do_several_do():
    fast = replace(COSTS, engine=Cost(0.001, 0.0001))
    planned = plan(fast, 50_000, 0.5)
    assert planned.units > 10
    each = 50_000 / 0.7 / planned.units
    assert each * COSTS.ingress.of(64) / 64 < 0.81


@pytest.mark.long
def test_cores_are_those_the_stages_keep_busy_and_the_headroom():
    """Between what full batches cost a photo and what lone photos cost."""
    planned = plan(COSTS, 100, 0.5, headroom=0.5)
    batch = planned.unit.batch.max_items
    assert 100 * (0.0004 + 0.002 / batch) / 0.5 < planned.cores < 100 * 0.0024 / 0.5
    on_cores = plan(replace(COSTS, engine_takes_core=True), 100, 0.5, headroom=0.5)
    assert on_cores.cores > planned.cores + 100 * 0.008 / 0.5


@pytest.mark.long
def test_an_objective_that_nothing_keeps_is_refused_with_the_least_there_is():
    with pytest.raises(ValueError, match=r"p99 of 0\.05 s can't be kept: .* alone takes 0\.06"):
        plan(COSTS, 10, 0.05)


@pytest.mark.parametrize("file", ["serve_config.yaml", "configs/rehearsal.yaml"])
def test_recommended_values_fit_the_config_they_are_for(file):
    config = ServeConfig.read(PROJECT / file)
    done = config.merge(values(config, compose(3, 24, preprocessors=2), units=5))
    done.check()
    assert done.settings.small_lane.max_in_flight == 6
    replicas = {name: each["num_replicas"] for name, each in done.deployments.items()}
    assert replicas == {"Ingress": 5, "Preprocessor": 10, "Classifier": 15}
    assert not any(each.get("autoscaling_config") for each in done.deployments.values())


@pytest.mark.parametrize(("rate", "headroom"), [(0, 0.7), (-5, 0.7), (10, 0), (10, 1.5)])
def test_a_rate_or_headroom_that_makes_no_sense_is_refused(rate, headroom):
    with pytest.raises(ValueError, match="a rate above 0 and a headroom up to 1 are needed"):
        plan(COSTS, rate, 0.5, headroom)


@pytest.mark.long
def test_the_command_prints_a_row_a_rate(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["plan", "--rate", "20", "40"])
    assert main() == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["20", "40"]


@pytest.mark.long
def test_the_command_says_why_it_can_not_plan(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["plan", "--rate", "500", "--p99-s", "0.001"])
    with pytest.raises(SystemExit):
        main()
    assert "can't be kept" in capsys.readouterr().err

"""Claims about the verdict of `make chaos`."""

import numpy as np
import pytest

from bench.chaos import _judge
from bench.client import LOST, Outcomes

OK = 200


def run(*kills, replicas=1, status=None, answered_after_s=None, left_at=None):
    """20 s of 100 requests/s that take 0.01 s each; the mappings are from ranges of seconds."""
    times = np.arange(0, 20, 0.01)
    outcomes = Outcomes(len(times))
    outcomes.left_s[:] = times + 1e-9
    outcomes.ended_s[:] = times + 0.01
    outcomes.status[:] = OK
    for (start, end), value in (status or {}).items():
        outcomes.status[(times >= start) & (times < end)] = value
    for (start, end), at in (answered_after_s or {}).items():
        outcomes.ended_s[(times >= start) & (times < end)] = at
    for (start, end), at in (left_at or {}).items():
        outcomes.left_s[(times >= start) & (times < end)] = at
    return _judge(replicas, 100, times, outcomes, kills)


def test_a_run_without_a_failure_is_kept():
    chaos = run((5.0, "Preprocessor"), (10.0, "HAProxy"), replicas=2)
    assert [kill.failed for kill in chaos.kills] == [0, 0]
    assert chaos.missed() == []


def test_failures_are_charged_to_the_kill_before_them():
    chaos = run((5.0, "Preprocessor"), (10.0, "Classifier"), status={(6, 6.5): 503, (11, 12): LOST})
    assert [(kill.victim, kill.failed, kill.statuses) for kill in chaos.kills] == [
        ("Preprocessor", 50, {503: 50}),
        ("Classifier", 100, {LOST: 100}),
    ]
    assert chaos.missed() == ["7.5% failed, at most 2%"]


def test_a_request_that_a_killed_ingress_held_may_fail_and_no_other():
    held = (9.985, 9.995)
    chaos = run((10.0, "Ingress"), replicas=2, status={held: LOST}, answered_after_s={held: 10.1})
    assert (chaos.kills[0].held, chaos.kills[0].failed) == (1, 1)
    assert chaos.missed() == []
    chaos = run((10.0, "Ingress"), replicas=2, status={(10.5, 10.52): 503})
    assert chaos.missed() == ["Ingress: 2 failed, at most 1"]


def test_what_a_kill_held_is_charged_to_it_alone():
    held = (9.985, 9.995)
    chaos = run(
        (5.0, "Preprocessor"), (10.0, "HAProxy"), replicas=2,
        status={held: LOST}, answered_after_s={held: 10.1},
    )  # fmt: skip
    assert [kill.failed for kill in chaos.kills] == [0, 1]


@pytest.mark.parametrize("left_at", [10.01, 0.0])
def test_what_came_too_late_to_leave_before_a_kill_is_charged_to_it_alone(left_at):
    late = (9.985, 9.995)
    chaos = run(
        (5.0, "Preprocessor"), (10.0, "HAProxy"), replicas=2, status={late: LOST},
        answered_after_s={late: 10.1}, left_at={late: left_at},
    )  # fmt: skip
    assert [kill.failed for kill in chaos.kills] == [0, 1]


def test_requests_that_wait_are_a_silence_and_no_failure():
    chaos = run((5.0, "Classifier"), answered_after_s={(5.0, 11.0): 11.0})
    assert chaos.kills[0].silent_s == pytest.approx(6.0, abs=0.02)
    assert chaos.missed() == ["Classifier: silent for 6.0 s"]


def test_a_killed_haproxy_may_refuse_connections_until_it_is_back():
    chaos = run((5.0, "HAProxy"), replicas=2, status={(5.0, 7.0): LOST})
    assert chaos.missed() == ["10.0% failed, at most 2%"]
    chaos = run((5.0, "HAProxy"), replicas=2, status={(5.0, 9.0): LOST})
    assert any(text.startswith("HAProxy: silent for 4.0") for text in chaos.missed())

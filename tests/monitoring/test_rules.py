"""Claims about the rules: alerts fire when they should, and the runbook says what to do then."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deployments.telemetry.catalogue import ALL, REQUEST_DURATION
from loadtest.slo import OBJECTIVES, load_objectives

PROJECT = Path(__file__).parents[2]
RULES = yaml.safe_load((PROJECT / "monitoring/rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


def test_rules_ask_for_metrics_that_there_are():
    asked = re.findall(r"ray_mlc_\w+", (PROJECT / "monitoring/rules.yaml").read_text())
    known = {metric.exported for metric in ALL}
    assert {re.sub("_(count|sum|bucket)$", "", name) for name in asked} <= known


def test_rules_and_load_tests_have_the_same_latency_objective():
    p99_s = load_objectives(OBJECTIVES).p99_s
    text = (PROJECT / "monitoring/rules.yaml").read_text()
    assert set(re.findall(r'le="([\d.]+)"', text)) == {f"{p99_s:g}"}
    assert set(re.findall(r"take over ([\d.]+) s", text)) == {f"{p99_s:g}"}
    assert p99_s in REQUEST_DURATION.buckets


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_the_runbook_says_what_to_do_about_each_alert(alert):
    runbook = (PROJECT / "docs/runbook.md").read_text(encoding="utf-8")
    (entry,) = re.findall(rf"^## {alert['alert']}$(.*?)(?=^## |\Z)", runbook, re.M | re.S)
    assert "Look at" in entry
    assert "Do" in entry
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"


@pytest.mark.long
@pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed; scripts/install-test-packages does it",
)
def test_every_alert_fires_when_it_should_and_is_silent_when_all_is_well():
    cases = yaml.safe_load((PROJECT / "monitoring/rules_test.yaml").read_text())["tests"]
    for fires in (True, False):
        tested = {t["alertname"] for case in cases for t in case["alert_rule_test"]
                  if bool(t["exp_alerts"]) is fires}  # fmt: skip
        assert tested == {alert["alert"] for alert in ALERTS}
    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yaml"], check=False, cwd=PROJECT / "monitoring",
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr

"""Metrics, rules and what is written of them belong together."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from deployments import metrics
from deployments.exposition import merge
from mlc_core.spec import ImageSize, Spec

PROJECT = Path(__file__).parents[2]
RULES = yaml.safe_load((PROJECT / "monitoring/rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


def test_docs_list_the_metrics_that_there_are():
    text = (PROJECT / "docs/metrics.md").read_text(encoding="utf-8")
    assert text == metrics.document(), "run: python -m deployments.metrics > docs/metrics.md"


def test_rules_ask_for_metrics_that_there_are():
    asked = re.findall(r"ray_mlc_\w+", (PROJECT / "monitoring/rules.yaml").read_text())
    known = {declared.exported for declared in metrics.ALL}
    assert {re.sub("_(count|sum|bucket)$", "", name) for name in asked} <= known


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_the_runbook_says_what_to_do_about_each_alert(alert):
    runbook = (PROJECT / "docs/runbook.md").read_text(encoding="utf-8")
    (entry,) = re.findall(rf"^## {alert['alert']}$(.*?)(?=^## |\Z)", runbook, re.M | re.S)
    assert "Look at" in entry
    assert "Do" in entry
    assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"


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


def test_predictions_are_counted_once_however_often_they_are_exported(monkeypatch):
    recorded = []
    monkeypatch.setattr(
        metrics,
        "record",
        lambda declared, value, **labels: recorded.append((declared, value, labels)),
    )
    spec = Spec("a", "1", ImageSize(height_px=8, width_px=8), {"color": ("Red", "Blue", "Green")})
    predictions = metrics.Predictions(spec)
    first = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]], np.float32)
    predictions.observe({"color": first})
    predictions.export()
    predictions.export()
    predictions.observe({"color": first[1:2]})
    predictions.export()
    counted = [(labels["class"], value) for declared, value, labels in recorded
               if declared is metrics.PREDICTIONS]  # fmt: skip
    assert counted == [("Red", 2), ("Green", 1), ("Green", 1)]
    confidences = [value for declared, value, _ in recorded if declared is metrics.CONFIDENCE]
    assert confidences == pytest.approx([0.7, 0.8])  # the first photo of each batch


NODE = """# HELP ray_mlc_photos_total Photos
# TYPE ray_mlc_photos_total counter
ray_mlc_photos_total{{node="{node}"}} {count}
# HELP ray_node_cpu Not ours
# TYPE ray_node_cpu gauge
ray_node_cpu 3
"""


def test_nodes_are_merged_and_one_that_is_silent_is_counted():
    texts = [NODE.format(node="a", count=1), None, NODE.format(node="b", count=2)]
    lines = merge(texts).decode().splitlines()
    assert lines.count("# TYPE ray_mlc_photos_total counter") == 1
    assert 'ray_mlc_photos_total{node="a"} 1.0' in lines
    assert 'ray_mlc_photos_total{node="b"} 2.0' in lines
    assert "mlc_nodes_unreachable 1.0" in lines
    assert not any("ray_node_cpu" in line for line in lines)

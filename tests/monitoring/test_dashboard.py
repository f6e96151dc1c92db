"""Claims about the dashboard, without a Prometheus; tests/e2e/test_monitoring.py asks one."""

import itertools
import json
import re
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deployments.telemetry.catalogue import ALL

FILE = Path(__file__).parents[2] / "monitoring/dashboard.json"
TEXT = FILE.read_text()
PANELS = json.loads(TEXT)["panels"]


def test_grafanas_types_read_every_key_of_the_file():
    """What they do not know would be gone from what they write."""
    read = Dashboard.from_json(json.loads(TEXT))
    assert json.loads(JSONEncoder().encode(read)) == json.loads(TEXT)


def test_queries_ask_for_metrics_and_records_that_there_are():
    exported = {metric.exported for metric in ALL}
    asked = {re.sub("_(count|sum|bucket)$", "", name) for name in re.findall(r"ray_mlc_\w+", TEXT)}
    assert asked <= exported
    records = set(re.findall(r"record: (\S+)", (FILE.parent / "rules.yaml").read_text()))
    assert set(re.findall(r"mlc:[\w:]+", TEXT)) <= records
    # Nobody sees at night what no panel shows.
    assert exported - asked == set()


def test_panels_neither_overlap_nor_leave_the_screen():
    places = [panel["gridPos"] for panel in PANELS]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in itertools.combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        )  # fmt: skip
        assert apart
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_every_panel_says_what_it_is_for_and_in_which_unit():
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]

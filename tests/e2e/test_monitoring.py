"""What an SRE sees: a real Prometheus scrapes the running service while it is asked things."""

import threading

import httpx
import pytest
from photos import FORMATS, jpeg
from prometheus import Prometheus, needs_prometheus
from services import wait_until

from deployments.metrics import ALL, PREDICTIONS
from mlc_core.spec import HEADS

pytestmark = needs_prometheus
EXPORTED_WITHIN_S = 60  # Ray exports every 10 s


@pytest.fixture(scope="module")
def scraped(url, tmp_path_factory):
    """A Prometheus that has scraped while good and bad photos were sent."""
    over = threading.Event()

    def ask():
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not over.is_set():
                for photo in (jpeg(), FORMATS["png"], b"no photo"):
                    client.post("/v1/classify", content=photo)
                over.wait(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with Prometheus(tmp_path_factory.mktemp("prometheus"), url) as prometheus:
            yield prometheus
    finally:
        over.set()
        asking.join()


@pytest.mark.parametrize("declared", ALL, ids=lambda declared: declared.name)
def test_every_metric_is_scraped_with_its_labels(scraped, declared):
    name = declared.exported + ("_count" if declared.kind == "histogram" else "")
    wait_until(lambda: scraped.query(name), name, EXPORTED_WITHIN_S)
    for series in scraped.query(name):
        assert {*declared.labels, "deployment", "replica", "application"} <= set(series["metric"])


def test_every_recording_rule_has_a_value_and_every_alert_is_evaluated(scraped):
    rules = scraped.rules()
    for rule in rules:
        if rule["type"] == "recording":
            wait_until(lambda: scraped.query(rule["name"]), rule["name"], EXPORTED_WITHIN_S)  # noqa: B023
    wait_until(lambda: {r["health"] for r in scraped.rules()} == {"ok"}, "rules are healthy", 30)
    assert sum(rule["type"] == "alerting" for rule in rules) >= 10


def test_every_head_of_every_photo_is_counted(scraped):
    def count(head):
        series = scraped.query(f'sum({PREDICTIONS.exported}{{head="{head}"}})')
        return float(series[0]["value"][1]) if series else 0

    wait_until(lambda: count("color") > 10, "predictions", EXPORTED_WITHIN_S)
    wait_until(lambda: len({count(head) for head in HEADS}) == 1, "a count for each head", 30)


def test_problems_and_formats_are_told_apart(scraped):
    for expression in (
        'ray_mlc_problems_total{problem="unsupported-format"}',
        'ray_mlc_photos_total{format="PNG"}',
        'ray_mlc_photos_total{format="other"}',
        'ray_mlc_request_s_count{route="/v1/classify", status="415"}',
    ):
        wait_until(lambda: scraped.query(expression), expression, EXPORTED_WITHIN_S)  # noqa: B023


def test_a_made_up_path_makes_no_series(scraped, client):
    client.get("/made/up")
    other = 'ray_mlc_request_s_count{route="other", status="404"}'
    wait_until(lambda: scraped.query(other), other, EXPORTED_WITHIN_S)
    assert scraped.query('ray_mlc_request_s_count{route=~".*made.*"}') == []


def test_each_family_is_told_once_and_nothing_but_ours_and_serves(client):
    lines = client.get("/metrics").text.splitlines()
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert "mlc_nodes_unreachable 0.0" in lines
    for name in types:
        assert name.startswith(("ray_mlc_", "ray_serve_", "mlc_"))

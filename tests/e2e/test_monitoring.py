"""What an SRE sees: a real Prometheus scrapes the running service while it is asked things."""

import json
import math
import threading

import httpx
import pytest
from photos import FORMATS, jpeg
from services import PROJECT, Service, needs_prometheus, wait_until

from bench.dashboard import as_grafana_asks
from bench.prometheus import Prometheus
from deployments.serve_config import ServeConfig
from deployments.telemetry.catalogue import ALL, PREDICTIONS
from mlc_core.spec import HEADS

pytestmark = needs_prometheus
EXPORTED_WITHIN_S = 60  # Ray exports every 10 s


DASHBOARD = json.loads((PROJECT / "monitoring/dashboard.json").read_text())
QUERIES = [
    (panel["title"], target["expr"])
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
]


@pytest.fixture(scope="module")
def autoscaled_url(tmp_path_factory, keys_file, key):
    """A service with keys, whose preprocessors Serve scales, so that there is something to see."""
    scaled = {
        "name": "Preprocessor", "num_replicas": "auto",
        "autoscaling_config": {
            "min_replicas": 1, "max_replicas": 2,
            "policy": {"policy_function": "deployments.pipeline.autoscaling:groups_per_replica"},
        },
    }  # fmt: skip
    catalogue = tmp_path_factory.mktemp("catalogue")
    args = {
        "keys_file": str(keys_file), "endpoints": {"metrics": "open"}, "catalog": str(catalogue),
        "feedback": {"directory": str(tmp_path_factory.mktemp("feedback"))},
    }  # fmt: skip
    config = ServeConfig.read(PROJECT / "configs/similar.yaml").merge(
        {"applications": [{"name": "mlc", "deployments": [scaled], "args": args}]}
    )
    config = config.with_user_config(profiles=["configs/profiles/google.yaml"])  # a key has it
    with Service(config.write(tmp_path_factory.mktemp("scaled") / "config.yaml")) as service:
        yield service.url


@pytest.fixture(scope="module")
def scraped(autoscaled_url, key, tmp_path_factory):
    """A Prometheus that scrapes while photos, searches, changes and feedback are sent."""
    over = threading.Event()
    said = json.dumps({"by": "anna", "labels": {"color": "Red", "category": "Watches"}})

    def ask():
        with httpx.Client(
            base_url=autoscaled_url, timeout=30, trust_env=False,
            headers={"Authorization": f"Bearer {key}"},
        ) as client:  # fmt: skip
            while not over.is_set():
                for photo in (jpeg(), FORMATS["png"], b"no photo"):
                    client.post("/v1/classify", content=photo)
                client.get("/made/up")
                client.put("/v1/catalog/shirt", content=jpeg())
                client.post("/v1/similar", content=jpeg())
                client.delete("/v1/catalog/nothing")
                client.post("/v1/feedback", files={"image": jpeg(), "feedback": (None, said)})
                over.wait(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with Prometheus(tmp_path_factory.mktemp("prometheus"), autoscaled_url) as prometheus:
            yield prometheus
    finally:
        over.set()
        asking.join()


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_every_metric_is_scraped_with_its_labels(scraped, metric):
    name = metric.exported + ("_count" if metric.kind == "histogram" else "")
    wait_until(lambda: scraped.query(name), name, EXPORTED_WITHIN_S)
    for series in scraped.query(name):
        # Prometheus leaves out a label that is empty, as `error` is while no update is stuck.
        labels = {*metric.labels, "deployment", "replica", "application"} - {"error"}
        assert labels <= set(series["metric"])


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[title for title, _ in QUERIES])
def test_every_query_of_the_dashboard_has_an_answer(scraped, title, query):
    query = as_grafana_asks(query)
    assert "$" not in query

    def numbers():
        values = [float(series["value"][1]) for series in scraped.query(query)]
        return [value for value in values if not math.isnan(value)]

    wait_until(numbers, query, EXPORTED_WITHIN_S)


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
        'ray_mlc_photos_received_total{format="PNG"}',
        'ray_mlc_photos_received_total{format="other"}',
        'ray_mlc_request_duration_seconds_count{route="/v1/classify", status="415"}',
    ):
        wait_until(lambda: scraped.query(expression), expression, EXPORTED_WITHIN_S)  # noqa: B023


def test_a_made_up_path_makes_no_series(scraped):
    other = 'ray_mlc_request_duration_seconds_count{route="other", status="404"}'
    wait_until(lambda: scraped.query(other), other, EXPORTED_WITHIN_S)
    assert scraped.query('ray_mlc_request_duration_seconds_count{route=~".*made.*"}') == []


def test_each_family_is_told_once_and_nothing_but_ours_and_serves(client):
    lines = client.get("/metrics").text.splitlines()
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    assert "mlc_nodes_unreachable 0.0" in lines
    for name in types:
        assert name.startswith(("ray_mlc_", "ray_serve_", "mlc_"))

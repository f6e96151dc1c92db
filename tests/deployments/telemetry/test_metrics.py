"""Claims about the metrics, as they are declared, counted and put together."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from deployments import metrics
from deployments.telemetry.exposition import merge
from mlc_core.spec import ImageSize, Spec

PROJECT = Path(__file__).parents[2]


def test_docs_list_the_metrics_that_there_are():
    text = (PROJECT / "docs/metrics.md").read_text(encoding="utf-8")
    assert text == metrics.document(), (
        "run: python -m deployments.telemetry.catalogue > docs/metrics.md"
    )


def test_every_photos_predictions_are_counted_and_how_sure_they_are(recorded):
    spec = Spec("a", "2", ImageSize(height_px=8, width_px=8), {"color": ("Red", "Blue", "Green")})
    batch = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]], np.float32)
    predictions = metrics.Predictions(spec)
    predictions.observe({"color": batch})
    predictions.export()
    predictions.export()  # nothing is told twice
    counted = {labels["class"]: n for d, n, labels in recorded if d is metrics.PREDICTIONS}
    assert counted == {"Red": 2, "Green": 1}
    sums = [n for d, n, _ in recorded if d is metrics.CONFIDENCE_SUM]
    assert sums == [pytest.approx(2.1), 0]
    assert [n for d, n, _ in recorded if d is metrics.CONFIDENCE] == [
        pytest.approx(0.7)
    ]  # the first
    assert {labels["version"] for _, _, labels in recorded} == {"2"}


async def test_metrics_are_handed_over_by_the_clock_counters_summed_and_a_failure_stops_no_other(
    monkeypatch, caplog
):
    metrics._recorded.clear()
    told = []

    class Metric:
        def __init__(self, declared):
            self._name = declared.name

        def inc(self, value, labels):
            told.append((self._name, value, labels["format"]))

    monkeypatch.setattr(metrics, "made", Metric)
    for name in ("JPEG", "PNG", "JPEG"):
        metrics.record(metrics.PHOTOS, 1, format=name)

    def fail():
        raise ValueError("no such gauge")

    exporting = asyncio.create_task(metrics.export(fail))
    async with asyncio.timeout(5):
        while len(told) < 2:
            await asyncio.sleep(0.01)
    exporting.cancel()
    assert sorted(told) == [("mlc_photos_received", 1, "PNG"), ("mlc_photos_received", 2, "JPEG")]
    assert "a metric can't be exported" in caplog.text


NODE = """# HELP ray_mlc_photos_received_total Photos
# TYPE ray_mlc_photos_received_total counter
ray_mlc_photos_received_total{{node="{node}"}} {count}
# HELP ray_node_cpu Not ours
# TYPE ray_node_cpu gauge
ray_node_cpu 3
"""


def test_nodes_are_merged_and_one_that_is_silent_is_counted():
    texts = [NODE.format(node="a", count=1), None, NODE.format(node="b", count=2)]
    lines = merge(texts).decode().splitlines()
    assert lines.count("# TYPE ray_mlc_photos_received_total counter") == 1
    assert 'ray_mlc_photos_received_total{node="a"} 1' in lines
    assert 'ray_mlc_photos_received_total{node="b"} 2' in lines
    assert "mlc_nodes_unreachable 1.0" in lines
    assert not any("ray_node_cpu" in line for line in lines)


def test_what_is_merged_is_what_prometheus_reads():
    nodes = []
    for node in ("a", "b"):
        registry = CollectorRegistry()
        waits = Histogram("ray_mlc_waits", "Waits", ("node",), registry=registry, buckets=(1, 2))
        waits.labels(node).observe(1.5)
        Gauge("other", "Not ours", registry=registry).set(1)
        Counter("ray_serve_calls", "Calls", ("node",), registry=registry).labels(node).inc(3)
        nodes.append(generate_latest(registry).decode())
    families = {f.name: f for f in text_string_to_metric_families(merge(nodes).decode())}
    for name, kind, of_each in (
        ("ray_mlc_waits", "histogram", 5),
        ("ray_serve_calls", "counter", 1),
    ):
        assert families[name].type == kind
        assert families[name].documentation
        assert len([s for s in families[name].samples if "_created" not in s.name]) == 2 * of_each
    assert "other" not in families
    assert families["mlc_nodes_unreachable"].samples[0].value == 0

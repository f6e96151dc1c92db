"""Claims about the metrics, as they are declared, counted and put together."""

import asyncio

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from recording import Recording

from deployments.telemetry import catalogue, recorder
from deployments.telemetry.exposition import merge
from deployments.telemetry.predictions import PredictionSums
from deployments.telemetry.recorder import Recorder
from mlc_core.spec import ImageSize, Spec

PHOTOS = catalogue.PHOTOS_RECEIVED


@pytest.mark.parametrize("metric", catalogue.ALL, ids=lambda metric: metric.name)
def test_every_metric_follows_the_naming_of_prometheus(metric):
    assert metric.name.startswith("mlc_")
    assert not metric.name.endswith("_total")  # Ray adds it to counters
    of_time = "time" in metric.text.lower() or "duration" in metric.name
    assert metric.name.endswith("_seconds") == of_time


def test_every_photos_predictions_are_counted_and_how_confident_they_are():
    told = Recording()
    spec = Spec("a", "2", ImageSize(height_px=8, width_px=8), {"color": ("Red", "Blue", "Green")})
    batch = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]], np.float32)
    sums = PredictionSums(spec, told)
    sums.add({"color": batch}, {"color": batch.argmax(axis=1)})
    sums.record()
    sums.record()  # nothing is recorded twice
    assert told.values(catalogue.PREDICTIONS, **{"class": "Red"}) == [2]
    assert told.values(catalogue.PREDICTIONS, **{"class": "Green"}) == [1]
    assert told.values(catalogue.LABEL_CONFIDENCE) == [pytest.approx(2.1), 0]
    assert told.values(catalogue.CONFIDENCE) == [pytest.approx(0.7)]  # the first
    assert {labels["version"] for labels in told.labels(catalogue.PREDICTIONS)} == {"2"}


def test_a_recorder_that_is_not_enabled_drops_what_it_gets():
    told = Recording()
    told.enabled = False
    told.record(PHOTOS, 1, format="JPEG")
    told.batch_observer("images")(3, 0.1)
    assert told.take() == []


async def test_metrics_are_handed_over_by_the_clock_counters_summed_and_a_failure_stops_no_other(
    monkeypatch, caplog
):
    told = []

    class RayCounter:
        def __init__(self, metric):
            self._name = metric.name

        def inc(self, value, labels):
            told.append((self._name, value, labels["format"]))

    monkeypatch.setattr(recorder, "ray_metric", RayCounter)
    recording = Recorder()
    for name in ("JPEG", "PNG", "JPEG"):
        recording.record(PHOTOS, 1, format=name)

    def fail():
        raise ValueError("no such gauge")

    exporting = asyncio.create_task(recording.export(fail))
    async with asyncio.timeout(5):
        while len(told) < 2:
            await asyncio.sleep(0.01)
    exporting.cancel()
    assert sorted(told) == [(PHOTOS.name, 1, "PNG"), (PHOTOS.name, 2, "JPEG")]
    assert "a metric can't be exported" in caplog.text


NODE = """# HELP ray_mlc_photos_received_total Photos
# TYPE ray_mlc_photos_received_total counter
ray_mlc_photos_received_total{{node="{node}"}} {count}
# HELP ray_node_cpu Not ours
# TYPE ray_node_cpu gauge
ray_node_cpu 3
"""


def test_nodes_are_merged_and_one_that_is_silent_is_counted():
    texts = [NODE.format(node="a", count=1).encode(), None, NODE.format(node="b", count=2).encode()]
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
        nodes.append(generate_latest(registry))
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

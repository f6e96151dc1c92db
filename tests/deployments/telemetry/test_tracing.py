"""Claims about the spans of requests."""

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deployments.messages import Trace
from deployments.settings import TracingSettings
from deployments.telemetry.request_log import Entry
from deployments.telemetry.tracing import Tracing

CLIENTS = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_SAMPLED = CLIENTS[:-2] + b"00"
STAGES = {"decode": 0.002, "images_queue": 0.001, "inference": 0.004}


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


def traced(exporter, *entries, headers=(), sample=1.0):
    """The spans of requests that were answered, and the headers of the last response."""
    tracing = Tracing(TracingSettings(sample=sample), exporter)
    for entry in entries:
        response = tracing.begin(entry, headers)
        tracing.end(entry)
    tracing.close()
    return exporter.get_finished_spans(), dict(response)


def answered(*traces, status=200):
    entry = Entry("shop-1", "/v1/classify")
    entry.status, entry.photos = status, max(1, len(traces))
    for trace in traces:
        entry.note("small_photos_queue", 0.003, trace)
    return entry


def by_name(spans):
    return {span.name: span for span in spans}


def test_a_request_has_a_span_and_each_stage_one_below_it(exporter):
    spans, _ = traced(exporter, answered(Trace(STAGES, 8, "fashion 1")))
    named = by_name(spans)
    assert set(named) == {"POST /v1/classify", "read", "small_photos_queue", "group", *STAGES}
    request = named["POST /v1/classify"]
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["mlc.request_id"] == "shop-1"
    for stage in ("read", "small_photos_queue", *STAGES):
        assert named[stage].parent.span_id == request.context.span_id
    at_ns = named["small_photos_queue"].end_time
    for stage, spent_s in STAGES.items():
        assert named[stage].start_time == at_ns
        at_ns = named[stage].end_time
        assert at_ns - named[stage].start_time == pytest.approx(1e9 * spent_s)


def test_photos_of_one_group_link_to_the_same_span(exporter):
    together, alone = Trace(STAGES, 8, "fashion 1"), Trace(STAGES, 1, "fashion 1")
    spans, _ = traced(exporter, answered(together), answered(together), answered(alone))
    groups = {s.context.span_id: s.attributes["mlc.batch_size"] for s in spans if s.name == "group"}
    assert sorted(groups.values()) == [1, 8]
    linked = [s.links[0].context.span_id for s in spans if s.name == "inference"]
    assert [groups[span_id] for span_id in linked] == [8, 8, 1]
    assert linked[0] == linked[1]


def test_a_batch_request_has_the_stages_of_each_of_its_groups(exporter):
    spans, _ = traced(exporter, answered(Trace(STAGES, 8, "m"), Trace(STAGES, 4, "m")))
    assert sorted(s.attributes["mlc.batch_size"] for s in spans if s.name == "decode") == [4, 8]


def test_the_trace_of_the_client_goes_on_and_is_answered(exporter):
    spans, response = traced(exporter, answered(), headers=[(b"traceparent", CLIENTS)])
    request = by_name(spans)["POST /v1/classify"]
    assert f"{request.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    own = f"{request.context.span_id:016x}"
    assert response[b"traceparent"].decode() == f"00-{request.context.trace_id:032x}-{own}-01"


@pytest.mark.parametrize("headers", [[], [(b"traceparent", b"nonsense")]])
def test_what_is_not_sampled_is_not_exported(exporter, headers):
    spans, response = traced(exporter, answered(Trace(STAGES, 8, "m")), headers=headers, sample=0.0)
    assert spans == ()
    assert not int(response[b"traceparent"][-2:], 16) & 1


def test_a_client_that_does_not_sample_is_obeyed(exporter):
    headers = [(b"traceparent", NOT_SAMPLED)]
    assert traced(exporter, answered(), headers=headers)[0] == ()


def test_a_5xx_is_an_error(exporter):
    spans, _ = traced(exporter, answered(status=503))
    assert not by_name(spans)["POST /v1/classify"].status.is_ok

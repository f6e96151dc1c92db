"""Traces, as a collector gets them by OTLP."""

import gzip
import http.server
import threading

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from photos import jpeg
from services import PROJECT, Service, free_port, wait_until

from deployments.serve_config import ServeConfig

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def collected():
    """The spans that arrive, and the port they arrive at."""
    spans = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            message = ExportTraceServiceRequest.FromString(body)
            spans.extend(
                span
                for resource in message.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            )
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield spans, server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def traced(collected, tmp_path_factory):
    endpoint = f"http://127.0.0.1:{collected[1]}/v1/traces"
    config = ServeConfig.read(PROJECT / "serve_config.yaml").merge(
        {"applications": [{"name": "mlc", "args": {"tracing": {"endpoint": endpoint}}}]}
    )
    with Service(config.write(tmp_path_factory.mktemp("traced") / "config.yaml")) as service:
        yield service


@pytest.mark.parametrize(
    ("path", "field"), [("/v1/classify", "image"), ("/v1/classify/batch", "images")]
)
def test_a_request_is_one_trace_with_a_span_a_stage(traced, collected, path, field):
    parent = f"{len(path):016x}"
    response = httpx.post(
        f"{traced.url}{path}", files=[(field, jpeg())], trust_env=False, timeout=30,
        headers={"traceparent": f"00-{TRACE}-{parent}-01"},
    )  # fmt: skip
    assert response.status_code == 200
    _, trace, own, _ = response.headers["traceparent"].split("-")
    assert trace == TRACE

    def below():
        return {span.name: span for span in collected[0] if span.parent_span_id.hex() == own}

    stages = {"read", "small_photos_queue", "decode", "images_queue", "inference", "encode"}
    wait_until(lambda: set(below()) >= stages, f"the spans {stages}", 60)
    assert {span.trace_id.hex() for span in below().values()} == {TRACE}
    (request,) = [span for span in collected[0] if span.span_id.hex() == own]
    assert request.name == f"POST {path}"
    assert request.parent_span_id.hex() == parent
    groups = {span.span_id for span in collected[0] if span.name == "group"}
    assert {link.span_id for link in below()["inference"].links} <= groups
    assert below()["inference"].links

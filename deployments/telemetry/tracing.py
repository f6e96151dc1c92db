"""OpenTelemetry traces, off by default: one trace for each request, with a span for each stage.

The ingress writes all spans. The other deployments measure their stages and send the durations with
the answers (messages.Trace), so tracing costs nothing between deployments and needs no common
clock. A stage's span begins where the one before it ended. Photos that travelled together link to
the same span of their group.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from deployments.messages import Trace
from deployments.settings import TracingSettings
from deployments.telemetry.request_log import Entry

TRACEPARENT = b"traceparent"
Headers = Sequence[tuple[bytes, bytes]]

_GROUPS = 256  # whose span is remembered, for the photos that are answered a little later
_ERROR = 500
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of requests and hands them to an exporter.

    Args:
        exporter: for OTLP if None.
    """

    def __init__(self, settings: TracingSettings, exporter: SpanExporter | None = None) -> None:
        processor = BatchSpanProcessor(exporter or OTLPSpanExporter(settings.endpoint))
        resource = Resource.create({SERVICE_NAME: "mlc"})
        # A group has a span when one of its photos has one, so nothing is left to a sampler there.
        samplers = ParentBased(TraceIdRatioBased(settings.sample)), ALWAYS_ON
        self._providers = [TracerProvider(sampler, resource) for sampler in samplers]
        for provider in self._providers:
            provider.add_span_processor(processor)
        self._tracer, self._group_tracer = (each.get_tracer("mlc") for each in self._providers)
        self._groups: OrderedDict[int, tuple[Trace, SpanContext]] = OrderedDict()

    def begin(self, entry: Entry, headers: Headers) -> Headers:
        """Begin the span of a request, in the client's trace if it names one.

        Returns:
            The headers of the response: its `traceparent`.
        """
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name in (TRACEPARENT, b"tracestate")
        }
        entry.span = self._tracer.start_span(
            f"POST {entry.route}", _propagator.extract(carrier), SpanKind.SERVER
        )
        context = entry.span.get_span_context()
        flags = int(context.trace_flags)
        parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"
        return [(TRACEPARENT, parent.encode())]

    def end(self, entry: Entry) -> None:
        """End the span of a request, and make those of its stages."""
        span = entry.span
        if span is None:
            return
        ended_ns = time.time_ns()
        if span.is_recording():
            self._describe(span, entry)
            duration_s = time.monotonic() - entry.began
            self._add_stages(span, entry, ended_ns - round(1e9 * duration_s))
        span.end(ended_ns)

    def close(self) -> None:
        """Export what is left. Blocks for seconds if the collector does not answer."""
        for provider in self._providers:
            provider.shutdown()

    def _describe(self, span: Span, entry: Entry) -> None:
        span.set_attributes(
            {
                "http.request.method": "POST",
                "http.route": entry.route,
                "http.response.status_code": entry.status,
                "mlc.request_id": entry.request_id,
                "mlc.photos": entry.photos,
            }
        )
        if entry.problem:
            span.set_attribute("mlc.problem", entry.problem)
        if entry.status >= _ERROR:
            span.set_status(Status(StatusCode.ERROR))

    def _add_stages(self, parent: Span, entry: Entry, began_ns: int) -> None:
        context = trace.set_span_in_context(parent)
        at_ns = began_ns
        for stage, spent_s in entry.stages_s.items():
            self._tracer.start_span(stage, context, start_time=at_ns).end(
                at_ns := at_ns + round(1e9 * spent_s)
            )
        for part in {id(part): part for part in entry.traces}.values():
            links = [Link(self._group(part, at_ns))]
            group_ns = at_ns
            for stage, spent_s in part.stages_s.items():
                span = self._tracer.start_span(stage, context, links=links, start_time=group_ns)
                span.set_attributes({"mlc.batch_size": part.batch_size, "mlc.model": part.model})
                span.end(group_ns := group_ns + round(1e9 * spent_s))

    def _group(self, part: Trace, began_ns: int) -> SpanContext:
        """The context of a group's span, which is made for the first of its photos."""
        if id(part) not in self._groups:
            span = self._group_tracer.start_span("group", Context(), start_time=began_ns)
            span.set_attributes({"mlc.batch_size": part.batch_size, "mlc.model": part.model})
            span.end(began_ns + round(1e9 * sum(part.stages_s.values())))
            self._groups[id(part)] = part, span.get_span_context()  # the part keeps its id
            if len(self._groups) > _GROUPS:
                self._groups.popitem(last=False)
        return self._groups[id(part)][1]

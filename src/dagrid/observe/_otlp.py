"""Spans on their way to a collector, by the SDK of OpenTelemetry: a bounded queue, a thread that sends, and what became of it.

All that waits does so in a thread of its own. It knows no run, and is imported when one is traced, for not everybody has what it
needs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
)

MOST_QUEUED = 8192
MOST_AT_ONCE = 512
EVERY_MILLISECONDS = 1000.0
LOGGERS = (
    "opentelemetry.attributes",
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.sdk.trace",
    "opentelemetry.sdk.trace.export",
)
"""Those that say on stderr, each time anew, what is said once at the end of a run."""


class Sending:
    """What takes spans and sends them; who has run it closes it.

    Args:
        endpoint: a URL; where it has no path, that of OTLP is added. Empty is what the variables of OpenTelemetry say.
        headers: go with every request.
        timeout: seconds for an answer.
        resource: attributes of this program.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], timeout: float, resource: Mapping[str, Any]) -> None:
        self._timeout = timeout
        self._ids = _Ids()
        self._made = 0
        self._guard = threading.Lock()
        for name in LOGGERS:
            logging.getLogger(name).addFilter(_OVERHEARD)
        self._exporter = _Exporter(OTLPSpanExporter(endpoint or None, headers=dict(headers), timeout=timeout))
        self._resource = dict(resource)
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None

    def begin(
        self, name: str, trace: int, span: int, parent: int, flags: int, at: float, attributes: Mapping[str, Any]
    ) -> Span:
        """Return a span that has begun.

        Args:
            name: what it is called.
            trace, span: its ids.
            parent: the id of the span above it, 0 if there is none.
            flags: those of the trace.
            at: when, in seconds since 1970.
            attributes: what is known of it.
        """
        context = Context()
        if parent:
            above = SpanContext(trace, parent, is_remote=False, trace_flags=TraceFlags(flags))
            context = set_span_in_context(NonRecordingSpan(above), context)
        self._ids.trace, self._ids.span = trace, span
        tracer = self._tracer or self._opened()
        return tracer.start_span(name, context, attributes=dict(attributes), start_time=nanoseconds(at))

    def end(self, span: Span, at: float) -> None:
        """End a span and send it when there is time."""
        with self._guard:
            self._made += span.is_recording()
        with heard(self._exporter.said):
            span.end(nanoseconds(at))

    def close(self) -> str:
        """Send the rest, as long as an answer may take, and return what could not be sent and why, empty if all was."""
        if self._provider is None:
            return ""
        closing = threading.Thread(target=self._provider.shutdown, name="dagrid-traces", daemon=True)
        closing.start()
        closing.join(self._timeout)
        if closing.is_alive():
            self._exporter.shutdown()
        lost = self._made - self._exporter.sent
        if lost <= 0:
            return ""
        return f"{lost} of {self._made} spans were not sent: {self._exporter.why or 'there was no answer in time'}"

    def _opened(self) -> Tracer:
        """Return what makes spans; its thread begins with the first one, so that a run that is refused leaves none behind."""
        with self._guard:
            if self._tracer is None:
                resource = Resource.create(self._resource)
                self._provider = TracerProvider(
                    ParentBased(ALWAYS_ON), resource, shutdown_on_exit=False, id_generator=self._ids
                )
                self._provider.add_span_processor(
                    BatchSpanProcessor(self._exporter, MOST_QUEUED, EVERY_MILLISECONDS, MOST_AT_ONCE)
                )
                self._tracer = self._provider.get_tracer("dagrid")
            return self._tracer


class _Exporter(SpanExporter):
    """An exporter that counts what was taken, and keeps for itself what it would say."""

    def __init__(self, exporter: OTLPSpanExporter) -> None:
        self._exporter = exporter
        self._closed = False
        self.sent = 0
        self.why = ""

    def said(self, message: str) -> None:
        self.why = self.why or message

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with heard(self.said):
            result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        return result

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _Ids(threading.local, IdGenerator):
    """The ids of the next span, as they were chosen."""

    trace = 0
    span = 0

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span


class _Overheard(logging.Filter):
    """Keeps from a log what is said of our own spans, and gives it to who listens in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.here = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        listener = getattr(self.here, "listener", None)
        if listener is None:
            return True
        listener(record.getMessage())
        return False


_OVERHEARD = _Overheard()


@contextmanager
def heard(listener: Callable[[str], None]) -> Iterator[None]:
    """Hear in this thread what the loggers of OpenTelemetry would tell."""
    _OVERHEARD.here.listener = listener
    try:
        yield
    finally:
        _OVERHEARD.here.listener = None


def nanoseconds(at: float) -> int:
    """Return a time as the protocol has it."""
    return round(at * 1e9)


def fresh() -> tuple[int, int]:
    """Return the ids of a new trace and of a new span."""
    ids = RandomIdGenerator()
    return ids.generate_trace_id(), ids.generate_span_id()


def around() -> str:
    """Return the traceparent of the span in which this is called, empty if there is none."""
    here = get_current_span().get_span_context()
    return f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}" if here.is_valid else ""

"""Log events in the SDK: the provider, the guarded processors, and records rebuilt in a replay.

The SDK marks its logs as in development (``opentelemetry.sdk._logs``), so they are touched here alone in the host, and
imported only with ``[otel] events = "log"`` or ``"both"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from esper_core.host.otel.processors import QueuedProcessor
from esper_core.semconv.identity import SCHEMA_URL, SCOPE_NAME
from esper_core.semconv.log_events import SAMPLED, log_events
from esper_core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from esper_core.events import Payload, TelemetryEvent
    from esper_core.host.deliver.guard import Guard
    from esper_core.host.otel.resource import ResourceValue

__all__ = ["GuardedLogProcessor", "build_logger_provider", "played_records"]


class GuardedLogProcessor(QueuedProcessor, LogRecordProcessor):
    """One contributed log record processor.

    It runs in its own thread, so that what it changes in a record may come too late for the processors of other sinks.
    """

    def __init__(self, inner: LogRecordProcessor, guard: Guard, *, patient: bool = False) -> None:
        super().__init__(inner, guard, "on_emit", "log record processor", patient=patient)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue a log record."""
        self.put(log_record)


def build_logger_provider(resource: Resource, processors: Iterable[LogRecordProcessor]) -> LoggerProvider:
    """A provider with these processors; nothing is registered at exit."""
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    for processor in processors:
        provider.add_log_record_processor(processor)
    return provider


def played_records(
    event: TelemetryEvent[Payload], resource: Mapping[str, ResourceValue]
) -> tuple[ReadWriteLogRecord, ...]:
    """Rebuild the log events of a journaled event, with their own times and the ids of its span.

    Args:
        event: the event, as it was journaled.
        resource: the resource of its run.
    """
    found = log_events(event)
    if not found:
        return ()
    described = Resource(dict(resource))
    scope = InstrumentationScope(SCOPE_NAME, __version__, SCHEMA_URL)
    trace_id, span_id = int(event.trace.trace_id, 16), int(event.trace.own.span_id, 16)
    ids = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(SAMPLED))
    context = set_span_in_context(NonRecordingSpan(ids), Context())
    return tuple(
        ReadWriteLogRecord(
            log_record=LogRecord(
                timestamp=item.time_ns,
                observed_timestamp=item.time_ns,
                context=context,
                severity_number=SeverityNumber(item.severity.number),
                severity_text=item.severity.text,
                event_name=item.name,
                attributes=item.attributes,
            ),
            resource=described,
            instrumentation_scope=scope,
        )
        for item in found
    )

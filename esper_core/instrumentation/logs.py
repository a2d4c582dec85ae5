"""An event's log events, through OpenTelemetry's logger. The one module here that touches ``opentelemetry._logs``.

The Logs API of OpenTelemetry Python is still marked as in development (hence the underscore), so all code that a change
of it may break is in this module and in those of ``host/otel`` that build providers and replayed records. Selected by
``[otel] events = "log"`` or ``"both"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace as otel_trace
from opentelemetry._logs import LoggerProvider, SeverityNumber, get_logger_provider
from opentelemetry.context import Context

from esper_core.semconv.log_events import SAMPLED, log_events

if TYPE_CHECKING:
    from esper_core.events import Payload, TelemetryEvent

__all__ = ["LogEvents"]


class LogEvents:
    """Emits log events, correlated with the event's own span.

    Args:
        provider: makes the logger; the default is the application's global one.
        scope: name of the instrumentation scope.
        version: its version.
        schema_url: schema URL of the names.
    """

    def __init__(self, provider: LoggerProvider | None, scope: str, version: str, schema_url: str) -> None:
        found = provider if provider is not None else get_logger_provider()
        self._logger = found.get_logger(scope, version, schema_url)

    def emit(self, event: TelemetryEvent[Payload]) -> None:
        """Emit every log event of an event. Call it inside the event's span."""
        found = log_events(event)
        if not found:
            return
        context = _context(event)
        for item in found:
            self._logger.emit(
                timestamp=item.time_ns,
                observed_timestamp=item.time_ns,
                context=context,
                severity_number=SeverityNumber(item.severity.number),
                severity_text=item.severity.text,
                event_name=item.name,
                attributes=item.attributes,
            )


def _context(event: TelemetryEvent[Payload]) -> Context:
    """A context with the event's own span: the current one, or one of the journal's ids when no tracer made it."""
    own = event.trace.own.span_id
    span = otel_trace.get_current_span()
    if f"{span.get_span_context().span_id:016x}" != own:
        flags = otel_trace.TraceFlags(SAMPLED)
        ids = otel_trace.SpanContext(int(event.trace.trace_id, 16), int(own, 16), is_remote=False, trace_flags=flags)
        span = otel_trace.NonRecordingSpan(ids)
    return otel_trace.set_span_in_context(span, Context())

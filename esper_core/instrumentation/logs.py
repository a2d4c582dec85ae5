"""An update's events as OpenTelemetry log events. The only module that touches ``opentelemetry._logs``.

The Logs API of OpenTelemetry Python is still marked as in development (hence the underscore), so all code that a change
of it may break is in this module. Selected by ``[otel] events = "log"`` or ``"both"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry._logs import LoggerProvider, SeverityNumber, get_logger_provider

from esper_core.semconv.failure import EXCEPTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_core.semconv.attributes import AttributeValue, SpanEventData

__all__ = ["LogEvents"]

_BY_NAME: Final = {
    "esper.ppo.early_stop": SeverityNumber.WARN,
    "esper.ppo.non_finite": SeverityNumber.ERROR,
    EXCEPTION: SeverityNumber.ERROR,
}


class LogEvents:
    """Emits span events as log events, correlated with the span that is current.

    Args:
        provider: makes the logger; the default is the application's global one.
        scope: name of the instrumentation scope.
        version: its version.
        schema_url: schema URL of the names.
    """

    def __init__(self, provider: LoggerProvider | None, scope: str, version: str, schema_url: str) -> None:
        found = provider if provider is not None else get_logger_provider()
        self._logger = found.get_logger(scope, version, schema_url)

    def emit(self, event: SpanEventData, identity: Mapping[str, AttributeValue]) -> None:
        """Emit one event with its own time; its severity is derived from its name.

        Args:
            event: name, time and attributes.
            identity: run, attempt, rank and update: attributes of the span, which a log event must repeat.
        """
        severity = _BY_NAME.get(event.name, SeverityNumber.INFO)
        self._logger.emit(
            timestamp=event.time_ns,
            severity_number=severity,
            severity_text=severity.name,
            event_name=event.name,
            attributes={**identity, **event.attributes},
        )

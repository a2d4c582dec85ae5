"""The log events of an event: its span events as records that stand alone, for logs instead of spans or beside them.

Name, time and attributes are those of the span event (``span_events.py``); a log record adds what the span says of
itself: run, attempt, rank, update, and the mark of a test event. The SDK's logger, the journal and a replay all take
them from here, so that one event gives the same records in all three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from esper_core.events import PPOUpdatePayload
from esper_core.semconv.attributes import common_attributes, span_events
from esper_core.semconv.failure import EXCEPTION
from esper_core.semconv.identity import MARKED

if TYPE_CHECKING:
    from esper_core.events import Payload, TelemetryEvent
    from esper_core.semconv._scalars import AttributeValue

__all__ = ["SAMPLED", "LogEventData", "Severity", "log_events", "severity"]

SAMPLED: Final = 1
"""Trace flags of a record whose span's own flags are not known: a journal's, and so a replay's."""


class Severity(NamedTuple):
    """A severity of OpenTelemetry's logs data model.

    Attributes:
        number: ``SeverityNumber``.
        text: its name.
    """

    number: int
    text: str


_INFO: Final = Severity(9, "INFO")
_BY_NAME: Final = {
    "esper.ppo.early_stop": Severity(13, "WARN"),
    "esper.ppo.non_finite": Severity(17, "ERROR"),
    EXCEPTION: Severity(17, "ERROR"),
}


class LogEventData(NamedTuple):
    """One log event. It belongs to the event's own span: ``event.trace`` has the trace id and the span id.

    Attributes:
        name: event name.
        time_ns: unix nanoseconds, both its own time and the time of observation: a replay gives the same record.
        severity: from its name.
        attributes: flat attributes.
    """

    name: str
    time_ns: int
    severity: Severity
    attributes: dict[str, AttributeValue]


def severity(name: str) -> Severity:
    """The severity of the events of a name."""
    return _BY_NAME.get(name, _INFO)


def log_events(event: TelemetryEvent[Payload]) -> tuple[LogEventData, ...]:
    """The log events of an event, in the order of its span events; most kinds have none."""
    found = span_events(event)
    if not found:
        return ()
    payload = event.payload
    identity = common_attributes(
        run_id=event.run_id,
        attempt=event.attempt,
        rank=event.rank,
        update_id=payload.update_id if isinstance(payload, PPOUpdatePayload) else None,
    )
    if event.marked:
        identity[MARKED] = True
    return tuple(
        LogEventData(item.name, item.time_ns, severity(item.name), {**identity, **item.attributes}) for item in found
    )

"""Converts events to flat attributes, span names and span events, for the SDK's spans and for the journal alike.

An update's field ``x`` is the attribute ``esper.ppo.x``, always of its declared type: a float field is a double even
when its value is 1. Heads are parallel arrays ``esper.ppo.head.x`` in the policy's order.

A value that was not measured is None and is left out; it is never written as 0. Inside a parallel array None is written
as an empty value (OTLP's ``AnyValue`` with nothing set, ``{}`` in OTLP JSON), which the OpenTelemetry specification
requires SDKs to preserve, and which SDK and OTLP exporter 1.43 and 1.45 preserve. An array that would hold only empty
values is left out. NaN and Inf are values and are written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from esper_core.events import EVENTS, PAYLOADS, EventKind, Payload, PPOUpdatePayload
from esper_core.semconv._plan import plan_of
from esper_core.semconv._plan_fields import AttributeSpec
from esper_core.semconv._scalars import AttributeValue, int64
from esper_core.semconv.failure import ERROR_TYPE, failure
from esper_core.semconv.identity import ATTEMPT, ITERATION_SPAN, MARKED, RANK, ROLLOUT_SPAN, RUN_ID
from esper_core.semconv.span_events import MAX_SPAN_EVENTS, SpanEventData, span_events

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_core.events import TelemetryEvent

__all__ = [
    "ITERATION_SPAN",
    "KINDS_BY_SPAN",
    "MAX_SPAN_EVENTS",
    "ROLLOUT_SPAN",
    "SPAN_NAMES",
    "UPDATE_ID",
    "AttributeSpec",
    "AttributeValue",
    "SpanEventData",
    "ancestor_attributes",
    "attribute_specs",
    "common_attributes",
    "event_attributes",
    "int64",
    "payload_from_attributes",
    "shared_attributes",
    "span_attributes",
    "span_events",
    "span_name",
]

SPAN_NAMES: Final[dict[EventKind, str]] = {kind: spec.span for kind, spec in EVENTS.items()}
"""The name of each event's own span; it alone identifies the kind."""
KINDS_BY_SPAN: Final = {name: kind for kind, name in SPAN_NAMES.items()}
UPDATE_ID: Final = plan_of(PPOUpdatePayload).key("update_id")
"""Also on the spans of its iteration and rollout."""


def common_attributes(
    *, run_id: str, attempt: int, rank: int, update_id: int | None = None
) -> dict[str, AttributeValue]:
    """Attributes that every span carries: under an application's own provider the resource lacks them.

    ``update_id`` is added to the spans of an iteration.
    """
    out: dict[str, AttributeValue] = {
        RUN_ID: run_id,
        ATTEMPT: int64(attempt),
        RANK: int64(rank),
    }
    if update_id is not None:
        out[UPDATE_ID] = int64(update_id)
    return out


def span_name(payload: Payload) -> str:
    """Name of the payload's own span."""
    return SPAN_NAMES[payload.kind]


def event_attributes(event: TelemetryEvent[Payload]) -> dict[str, AttributeValue]:
    """Attributes of the event's own span: the common ones and the whole payload. Any thread; a new dict each time."""
    return dict(shared_attributes(event))


_last: tuple[object, Mapping[str, AttributeValue]] | None = None


def shared_attributes(event: TelemetryEvent[Payload]) -> Mapping[str, AttributeValue]:
    """As :func:`event_attributes`, but one mapping shared by all callers for the same event: do not modify it.

    Instrumentation and journal both call it for an event; the second call returns the mapping of the first.
    """
    global _last  # noqa: PLW0603  # one slot, replaced whole: a race between threads costs only the saving
    last = _last
    if last is not None and last[0] is event:
        return last[1]
    out = common_attributes(run_id=event.run_id, attempt=event.attempt, rank=event.rank)
    if event.marked:
        out[MARKED] = True
    payload = event.payload
    plan_of(type(payload)).write(out, payload)
    failed = failure(payload)
    if failed is not None:
        out[ERROR_TYPE] = failed.type
    _last = (event, out)
    return out


def span_attributes(event: TelemetryEvent[Payload], name: str) -> Mapping[str, AttributeValue]:
    """Attributes of the event's span ``name``: its own span, or that of its iteration or rollout."""
    return shared_attributes(event) if name == span_name(event.payload) else ancestor_attributes(event)


def ancestor_attributes(event: TelemetryEvent[Payload]) -> Mapping[str, AttributeValue]:
    """Attributes of the spans around the event's own: its iteration and rollout."""
    own = shared_attributes(event)
    return {key: own[key] for key in _ANCESTOR_KEYS if key in own}


_ANCESTOR_KEYS: Final = (RUN_ID, ATTEMPT, RANK, UPDATE_ID)


def payload_from_attributes(kind: EventKind, attributes: Mapping[str, object]) -> Payload:
    """Rebuild a payload from its own span's attributes; unknown keys are ignored, numbers coerced by field type.

    Raises:
        CodecError: an attribute is missing or is no value of its field.
    """
    return cast("Payload", plan_of(PAYLOADS[kind]).read(attributes))


def attribute_specs(kind: EventKind) -> tuple[AttributeSpec, ...]:
    """Every attribute that payloads of this kind can carry, for registry checks and documentation."""
    return plan_of(PAYLOADS[kind]).specs

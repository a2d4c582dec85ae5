"""Events as flat attributes, span names and span events: the one source for the SDK's spans and for the journal.

An update's field ``x`` is the attribute ``esper.ppo.x``, always of its declared type: a float field is a double even
when its value is 1. Heads are parallel arrays ``esper.ppo.head.x`` in the policy's order.

What was not measured is None and left out, never a made-up 0. Inside a parallel array None keeps its place as an
empty value (OTLP's ``AnyValue`` with nothing set, ``{}`` in OTLP JSON), which the OpenTelemetry specification asks
SDKs to preserve, and which SDK and OTLP exporter 1.43 and 1.45 were found to. An array that would hold nothing but
empty values is left out. NaN and Inf are values and travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from esper_core.events import PAYLOADS, EarlyStop, EventKind, Payload, PPOUpdatePayload
from esper_core.health import classify_kl
from esper_core.semconv._plan import AttributeSpec, AttributeValue, PayloadPlan, int64, plan_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_core.events import TelemetryEvent

__all__ = [
    "ITERATION_SPAN",
    "KINDS_BY_SPAN",
    "MAX_SPAN_EVENTS",
    "ROLLOUT_SPAN",
    "SPAN_NAMES",
    "AttributeSpec",
    "AttributeValue",
    "SpanEventData",
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

ITERATION_SPAN: Final = "esper.iteration"
ROLLOUT_SPAN: Final = "esper.rollout"
SPAN_NAMES: Final[dict[EventKind, str]] = {
    "run_started": "esper.run.started",
    "episode_finished": "esper.episode",
    "ppo_updated": "esper.ppo.update",
    "policy_health_changed": "esper.policy.health_changed",
    "sink_status_changed": "esper.sink.status",
    "run_finished": "esper.run.finished",
}
"""The name of each event's own span; it alone says the kind."""
KINDS_BY_SPAN: Final = {name: kind for kind, name in SPAN_NAMES.items()}

MAX_SPAN_EVENTS: Final = 128
"""The SDK's default limit (``OTEL_SPAN_EVENT_COUNT_LIMIT``); beyond it the oldest are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanEventData:
    """One span event (or log event) of an update.

    Attributes:
        name: event name.
        time_ns: unix nanoseconds; the update's end, when the payload was complete.
        attributes: flat attributes.
    """

    name: str
    time_ns: int
    attributes: dict[str, AttributeValue]


def common_attributes(
    *, run_id: str, attempt: int, rank: int, update_id: int | None = None
) -> dict[str, AttributeValue]:
    """Attributes that stand on every span: under an application's own provider the resource lacks them.

    ``update_id`` is added to the spans of an iteration.
    """
    out: dict[str, AttributeValue] = {
        "esper.run.id": run_id,
        "esper.run.attempt": int64(attempt),
        "esper.rank": int64(rank),
    }
    if update_id is not None:
        out["esper.ppo.update_id"] = int64(update_id)
    return out


def span_name(payload: Payload) -> str:
    """Name of the payload's own span."""
    return SPAN_NAMES[payload.kind]


def event_attributes(event: TelemetryEvent[Payload]) -> dict[str, AttributeValue]:
    """Attributes of the event's own span: the common ones and the whole payload. Any thread; yours to keep."""
    return dict(shared_attributes(event))


_last: tuple[object, Mapping[str, AttributeValue]] | None = None


def shared_attributes(event: TelemetryEvent[Payload]) -> Mapping[str, AttributeValue]:
    """As :func:`event_attributes`, but the same mapping for every caller of the same event: read it, don't write.

    Instrumentation and journal ask for the same event one after the other; the second one gets it for nothing.
    """
    global _last  # noqa: PLW0603  # one slot, replaced whole: a race between threads costs only the saving
    last = _last
    if last is not None and last[0] is event:
        return last[1]
    out = common_attributes(run_id=event.run_id, attempt=event.attempt, rank=event.rank)
    if event.marked:
        out["esper.marked"] = True
    payload = event.payload
    plan_of(type(payload)).write(out, payload)
    _last = (event, out)
    return out


def span_attributes(event: TelemetryEvent[Payload], name: str) -> Mapping[str, AttributeValue]:
    """Attributes of the span ``name`` that the event stands for: its own, or an iteration's or rollout's."""
    if name == span_name(event.payload):
        return shared_attributes(event)
    own = shared_attributes(event)
    return {key: own[key] for key in _ANCESTOR_KEYS if key in own}


_ANCESTOR_KEYS: Final = ("esper.run.id", "esper.run.attempt", "esper.rank", "esper.ppo.update_id")


def payload_from_attributes(kind: EventKind, attributes: Mapping[str, object]) -> Payload:
    """Rebuild a payload from its own span's attributes; unknown keys are ignored, numbers coerced by field type.

    Raises:
        CodecError: an attribute is missing or is no value of its field.
    """
    return cast("Payload", plan_of(PAYLOADS[kind]).read(attributes))


def attribute_specs(kind: EventKind) -> tuple[AttributeSpec, ...]:
    """Every attribute that payloads of this kind can carry, for registry checks and documentation."""
    return plan_of(PAYLOADS[kind]).specs


def span_events(event: TelemetryEvent[Payload]) -> tuple[SpanEventData, ...]:
    """Span events of the event's own span: an update's KL by epoch, its early stop, its non-finite values.

    Run and update stand on the span itself, so they do not stand here again. At most 128; of more epochs than fit,
    the last ones (the attribute ``esper.ppo.kl_by_epoch`` has all). Shared between callers: read it, don't write.
    """
    payload = event.payload
    if not isinstance(payload, PPOUpdatePayload):
        return ()
    global _last_events  # noqa: PLW0603  # as _last
    last = _last_events
    if last is None or last[0] is not event:
        last = _last_events = (event, _update_events(payload, event.time_ns))
    return last[1]


_last_events: tuple[object, tuple[SpanEventData, ...]] | None = None


def _update_events(payload: PPOUpdatePayload, time_ns: int) -> tuple[SpanEventData, ...]:
    tail: list[SpanEventData] = []
    if payload.early_stop is not None:
        tail.append(
            SpanEventData(name=_EARLY_STOP, time_ns=time_ns, attributes=_written(_STOP_PLAN, payload.early_stop))
        )
    if payload.non_finite:
        counted: dict[str, AttributeValue] = {_NON_FINITE: int64(payload.non_finite)}
        tail.append(SpanEventData(name=_NON_FINITE, time_ns=time_ns, attributes=counted))
    first = max(0, len(payload.kl_by_epoch) - (MAX_SPAN_EVENTS - len(tail)))
    epochs = [
        SpanEventData(
            name="esper.ppo.kl",
            time_ns=time_ns,
            attributes={
                "esper.ppo.kl.epoch": epoch,
                "esper.ppo.kl.value": float(value),
                "esper.ppo.kl.health": str(classify_kl(value)),
            },
        )
        for epoch, value in enumerate(payload.kl_by_epoch[first:], start=first + 1)
    ]
    return (*epochs, *tail)


def _written(plan: PayloadPlan, record: object) -> dict[str, AttributeValue]:
    out: dict[str, AttributeValue] = {}
    plan.write(out, record)
    return out


_EARLY_STOP: Final = "esper.ppo.early_stop"
_NON_FINITE: Final = "esper.ppo.non_finite"
_STOP_PLAN: Final = PayloadPlan(EarlyStop, f"{_EARLY_STOP}.")

"""The span events of an update: its KL by epoch, its early stop, its non-finite values. Log events are the same."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from esper_core.events import EVENTS, EarlyStop, PPOUpdatePayload, about
from esper_core.semconv._plan import PayloadPlan
from esper_core.semconv.failure import EXCEPTION, EXCEPTION_MESSAGE, EXCEPTION_TYPE, failure

if TYPE_CHECKING:
    from esper_core.events import Payload, TelemetryEvent
    from esper_core.semconv._plan_fields import AttributeSpec
    from esper_core.semconv._scalars import AttributeValue

__all__ = ["MAX_SPAN_EVENTS", "SPAN_EVENTS", "EpochKL", "SpanEventData", "SpanEventSpec", "span_events"]

MAX_SPAN_EVENTS: Final = 128
"""The SDK's default limit (``OTEL_SPAN_EVENT_COUNT_LIMIT``); beyond it the oldest are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochKL:
    """Pooled in-loop weighted KL of one epoch of an update; its time is the update's end. It sets no level."""

    epoch: int = field(metadata=about("The epoch, counted from 1.", examples=(2,)))
    value: float = field(metadata=about("Pooled in-loop weighted KL of the epoch.", unit="{nat}", examples=(0.0123,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanEventSpec:
    """One kind of span event.

    Attributes:
        name: event name.
        brief: its meaning, one sentence.
        plan: writes its record into attributes.
    """

    name: str
    brief: str
    plan: PayloadPlan

    @property
    def attributes(self) -> tuple[AttributeSpec, ...]:
        """The attributes of the span event."""
        return self.plan.specs


class SpanEventData(NamedTuple):
    """One span event (or log event) of an update.

    Attributes:
        name: event name.
        time_ns: unix nanoseconds; the update's end, at which the payload was complete.
        attributes: flat attributes.
    """

    name: str
    time_ns: int
    attributes: dict[str, AttributeValue]


# The span itself carries early stop and non-finite values too, under the same attribute names.
_EPOCH: Final = SpanEventSpec(
    name="esper.ppo.kl", brief=(EpochKL.__doc__ or "").strip(), plan=PayloadPlan(EpochKL, "esper.ppo.kl")
)
_EPOCH_KEY, _VALUE_KEY = _EPOCH.plan.key("epoch"), _EPOCH.plan.key("value")
_STOP: Final = SpanEventSpec(
    name="esper.ppo.early_stop",
    brief="The update stopped before its planned minibatches.",
    plan=PayloadPlan(EarlyStop, "esper.ppo.early_stop"),
)
_NON_FINITE: Final = SpanEventSpec(
    name="esper.ppo.non_finite",
    brief="NaN or Inf appeared during the update.",
    plan=PayloadPlan(PPOUpdatePayload, EVENTS[PPOUpdatePayload.kind].namespace, only=("non_finite",)),
)
SPAN_EVENTS: Final = (_EPOCH, _STOP, _NON_FINITE)
"""Every kind of span event, in the order in which the update's span has them."""


def span_events(event: TelemetryEvent[Payload]) -> tuple[SpanEventData, ...]:
    """Span events of the event's own span: an update's KL by epoch, early stop and non-finite values; exceptions.

    A span with status ERROR carries the event ``exception``.

    The span itself carries run and update, so they are not repeated here. At most 128 events; of more epochs, the last
    ones (the attribute ``esper.ppo.kl_by_epoch`` has all). The result is shared between callers: do not modify it.
    """
    payload = event.payload
    if not isinstance(payload, PPOUpdatePayload):
        return _exception(payload, event.time_ns)
    global _last  # noqa: PLW0603  # one slot, replaced whole: a race between threads costs only the saving
    last = _last
    if last is None or last[0] is not event:
        last = _last = (event, _update_events(payload, event.time_ns))
    return last[1]


_last: tuple[object, tuple[SpanEventData, ...]] | None = None


def _update_events(payload: PPOUpdatePayload, time_ns: int) -> tuple[SpanEventData, ...]:
    tail: list[SpanEventData] = []
    if payload.early_stop is not None:
        tail.append(_written(_STOP, _stop_values(payload.early_stop), time_ns))
    if payload.non_finite:
        tail.append(_written(_NON_FINITE, (payload.non_finite,), time_ns))
    tail.extend(_exception(payload, time_ns))
    by_epoch = payload.kl_by_epoch
    first = max(0, len(by_epoch) - (MAX_SPAN_EVENTS - len(tail)))
    epochs = [
        SpanEventData(_EPOCH.name, time_ns, {_EPOCH_KEY: epoch, _VALUE_KEY: float(value)})
        for epoch, value in enumerate(by_epoch[first:], start=first + 1)
    ]
    return (*epochs, *tail)


def _exception(payload: Payload, time_ns: int) -> tuple[SpanEventData, ...]:
    failed = failure(payload)
    if failed is None:
        return ()
    return (SpanEventData(EXCEPTION, time_ns, {EXCEPTION_TYPE: failed.type, EXCEPTION_MESSAGE: failed.message}),)


_stop_values: Final = attrgetter(*(item.name for item in fields(EarlyStop)))


def _written(spec: SpanEventSpec, values: tuple[Any, ...], time_ns: int) -> SpanEventData:
    attributes: dict[str, AttributeValue] = {}
    spec.plan.write_values(attributes, values)
    return SpanEventData(spec.name, time_ns, attributes)

"""The envelope: when and in which run something happened, and the spans it stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from esper_core.events._record import EventKind, Payload, Record
from esper_core.events.fields import about, measured

__all__ = ["LinkRef", "SpanRef", "TelemetryEvent", "TraceRef"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpanRef(Record):
    """One span that an event stands for."""

    name: str = field(metadata=about("Span name, for example `esper.ppo.update`."))
    span_id: str = field(metadata=about("16 lower-case hex digits."))
    parent_span_id: str | None = measured("Likewise, or None for a root.")
    start_ns: int = field(metadata=about("Unix nanoseconds."))
    end_ns: int = field(metadata=about("Unix nanoseconds."))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinkRef(Record):
    """A span of another trace that an event's first span links to: the one that ``TRACEPARENT`` names."""

    trace_id: str = field(metadata=about("32 lower-case hex digits."))
    span_id: str = field(metadata=about("16 lower-case hex digits."))
    trace_state: str = measured("As W3C's `tracestate` has it.", default="")
    flags: int = measured("As OTLP has them: W3C's trace flags, and whether the span is of another process.", default=0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TraceRef(Record):
    """The spans an event stands for, its own last.

    A PPO update stands for its iteration, rollout and update; every other kind for one instant span.
    """

    trace_id: str = field(metadata=about("32 lower-case hex digits."))
    spans: tuple[SpanRef, ...] = field(metadata=about("Parents before children; the event's own span is the last one."))
    links: tuple[LinkRef, ...] = measured("Of the first span, when it begins the trace.", default=())

    @property
    def own(self) -> SpanRef:
        """The event's own span."""
        return self.spans[-1]


PayloadT = TypeVar("PayloadT", bound=Payload, covariant=True)  # noqa: PLC0105  # the field's usual name


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TelemetryEvent(Record, Generic[PayloadT]):
    """One event as every hook, journal line and viewer sees it."""

    time_ns: int = field(metadata=about("Unix nanoseconds; equals the own span's end."))
    run_id: str = field(
        metadata=about(
            "Id of the run; also on the resource.",
            key="esper.run.id",
            examples=("20261123T090000Z-baseline-k3v9qd",),
        )
    )
    attempt: int = measured(
        "Attempt at the run, counted from 1; a resume is a new attempt. Also on the resource.",
        default=1,
        key="esper.run.attempt",
        examples=(1,),
    )
    rank: int = measured(
        "Rank of the emitting process; 0 on one rank. Also on the resource.",
        default=0,
        key="esper.rank",
        examples=(0,),
    )
    marked: bool = measured(
        "True on the test event of `esper sinks check`, absent elsewhere.", default=False, key="esper.marked"
    )
    trace: TraceRef = field(metadata=about("The spans it stands for."))
    payload: PayloadT = field(metadata=about("What happened."))

    @property
    def kind(self) -> EventKind:
        """The payload's kind; ``esper_<kind>`` is its hook."""
        return self.payload.kind

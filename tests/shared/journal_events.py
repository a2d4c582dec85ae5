"""Events, and a writer of them, for the tests of the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.events import Payload, PPOUpdatePayload, SpanRef, TelemetryEvent, TraceRef
from esper_core.runs import JournalWriter, RunDir

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper_core.semconv.attributes import AttributeValue

__all__ = ["BASE_NS", "RESOURCE", "event_of", "ids", "opened", "update"]

RESOURCE: dict[str, AttributeValue] = {"service.name": "esper", "esper.run.attempt": 1}
BASE_NS = 1_700_000_000_000_000_000


def event_of(payload: Payload, *, attempt: int = 1, number: int = 1) -> TelemetryEvent[Payload]:
    now = BASE_NS + number
    names = {
        "ppo_updated": "esper.ppo.update",
        "run_started": "esper.run.started",
        "run_finished": "esper.run.finished",
    }
    span = SpanRef(name=names[payload.kind], span_id=f"{number:016x}", start_ns=now, end_ns=now)
    return TelemetryEvent(
        time_ns=now,
        run_id="r",
        attempt=attempt,
        trace=TraceRef(trace_id=f"{number:032x}", spans=(span,)),
        payload=payload,
    )


def update(number: int, *, attempt: int = 1) -> TelemetryEvent[Payload]:
    return event_of(PPOUpdatePayload(update_id=number, kl_divergence=number / 1000), attempt=attempt, number=number)


def ids(events: Iterable[TelemetryEvent[Payload]]) -> list[int]:
    return [event.payload.update_id for event in events if isinstance(event.payload, PPOUpdatePayload)]


def opened(run: RunDir, *, attempt: int = 1, segment_bytes: int = 2**26) -> JournalWriter:
    return JournalWriter(run, attempt=attempt, rank=0, resource=RESOURCE, segment_bytes=segment_bytes)

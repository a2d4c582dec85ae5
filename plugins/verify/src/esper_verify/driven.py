"""Passes a value through the real path: event, codec, aggregator, the app's real widgets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from esper_core.events import (
    HeadStats,
    PPOUpdatePayload,
    RunStarted,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.health import classify_kl
from esper_core.reading.source import MemorySource
from esper_core.semconv.attributes import span_name
from esper_sink_tui.watch import Watch

if TYPE_CHECKING:
    from esper_core.events import Payload
    from esper_verify.record import Record

__all__ = ["driven_events", "driven_update", "event_of", "rendered"]

_HEADS = ("slot", "tempo")
_SECOND = 1_000_000_000


def event_of(payload: Payload, number: int) -> TelemetryEvent[Any]:
    """Make an event of run ``verify``, one second after the event before it."""
    span = SpanRef(name=span_name(payload), span_id=f"{number + 1:016x}", start_ns=0, end_ns=number * _SECOND)
    trace = TraceRef(trace_id=f"{number + 1:032x}", spans=(span,))
    return TelemetryEvent(time_ns=number * _SECOND, run_id="verify", trace=trace, payload=payload)


def driven_update(record: Record, number: int, value: float | None) -> PPOUpdatePayload:
    """Make an update with the value in the record's field, and otherwise a healthy KL."""
    values: dict[str, Any] = {"kl_divergence": 0.004}
    if record.of_heads:
        calm = {"kl": 0.004, "weight": 1.0, "share": 0.5, "decisions": 8}
        heads: dict[str, dict[str, Any]] = {name: {"name": name, **calm} for name in _HEADS}
        heads[_HEADS[0]][record.payload_field] = value
        values["heads"] = tuple(HeadStats(**head) for head in heads.values())
    else:
        values[record.payload_field] = value
    return PPOUpdatePayload(update_id=number, health=classify_kl(values["kl_divergence"]), **values)


def driven_events(record: Record, count: int) -> list[TelemetryEvent[Any]]:
    """Make a run of ``count`` updates that all have the record's value."""
    updates = [
        event_of(driven_update(record, number, record.front.display.drive), number) for number in range(1, count + 1)
    ]
    return [event_of(RunStarted(environment="verify", heads=_HEADS), 0), *updates]


def rendered(record: Record, names: tuple[str, ...]) -> dict[str, str]:
    """The text of the real widgets for that run: the real app, headless, 120 columns by 36 lines."""
    return asyncio.run(_rendered(record, names))


async def _rendered(record: Record, names: tuple[str, ...]) -> dict[str, str]:
    from esper_sink_tui import widgets  # noqa: PLC0415  # loads Textual
    from esper_sink_tui.app import SanctumApp  # noqa: PLC0415  # as above

    watch = Watch(clock_ns=lambda: 20 * _SECOND)
    watch.head_view = "entropy" if record.front.display.head_view == "entropy" else "kl"
    source = MemorySource("verify")
    source.push(driven_events(record, 12))
    watch.add(source, select=True)
    while watch.tick():
        pass
    app = SanctumApp(watch, feed=False)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause()
        app.draw()
        shown = {}
        for name in names:
            kind = getattr(widgets, name, None)
            shown[name] = "\n".join(item.text() for item in app.query(kind)) if kind is not None else ""
        return shown

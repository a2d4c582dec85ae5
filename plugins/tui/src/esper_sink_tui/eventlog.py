"""One line of the event log for each kind of event: pure functions, in words, levels from ``esper_core.health``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_core.health import HealthLevel, RunState, format_kl
from esper_sink_tui.numbers import count, percent, plain
from esper_sink_tui.schema import EventEntry, EventTone

if TYPE_CHECKING:
    from esper_core.events import (
        EarlyStop,
        PolicyHealthChanged,
        PPOUpdatePayload,
        RunFinished,
        RunStarted,
        SinkStatusChanged,
    )

__all__ = [
    "bad_event",
    "early_stop_text",
    "health_changed",
    "ppo_update",
    "run_finished",
    "run_started",
    "sink_status",
]

_TONES: Final[dict[HealthLevel, EventTone]] = {
    HealthLevel.UNKNOWN: "info",
    HealthLevel.HEALTHY: "info",
    HealthLevel.WARNING: "warning",
    HealthLevel.CRITICAL: "critical",
    HealthLevel.NON_FINITE: "non_finite",
}


def early_stop_text(stop: EarlyStop, kl_after: float | None, *, short: bool = False) -> str:
    """Where an update stopped, on what, against which limit, which head, and the KL after the last step."""
    value, limit, after = format_kl(stop.value), plain(stop.threshold, 4), format_kl(kl_after)
    if short:
        head = f", {stop.head}" if stop.head else ""
        return f"epoch {stop.epoch} mb {stop.minibatch}, {value} > {limit}{head}, after {after}"
    head = f", head {stop.head}" if stop.head else ""
    return f"epoch {stop.epoch} minibatch {stop.minibatch}, pooled KL {value} > {limit}{head}, KL after it {after}"


def ppo_update(payload: PPOUpdatePayload, time_ns: int) -> EventEntry:
    """An update: its KL and level first, then why it ended early, else the other numbers."""
    tone = _TONES[payload.health]
    parts = [f"KL {format_kl(payload.kl_divergence)}"]
    leading = payload.leading_head
    if payload.health.severity >= HealthLevel.WARNING.severity and leading is not None:
        parts.append(f"{leading.name} {percent(leading.share, 0)}")
    if payload.non_finite:
        parts.append(f"{payload.non_finite} non-finite values")
    if payload.early_stop is not None:
        tone = "stop" if tone == "info" else tone
        parts.append(f"stopped early: {early_stop_text(payload.early_stop, payload.kl_divergence)}")
    elif payload.outcome != "completed":
        tone = "warning" if tone == "info" else tone
        parts.append(f"{payload.outcome}: {payload.reason}" if payload.reason else payload.outcome)
    else:
        parts.append(f"clip {percent(payload.clip_fraction)}")
        parts.append(f"entropy {plain(payload.entropy_normalised, 2)}")
        parts.append(f"ev {plain(payload.explained_variance, 2)}")
        if payload.return_mean is not None:
            parts.append(f"return {plain(payload.return_mean, 1)}")
    return EventEntry(
        time_ns=time_ns, tone=tone, source="ppo.update", update_id=payload.update_id, text="  ".join(parts)
    )


def health_changed(payload: PolicyHealthChanged, time_ns: int) -> EventEntry:
    """The verdict's level moved."""
    worse = payload.current.severity > payload.previous.severity
    tone: EventTone = _TONES[payload.current] if worse else "good"
    head = f", head {payload.head}" if payload.head and worse else ""
    words = {True: "rose", False: "calmed"}[worse]
    text = f"level {words} from {payload.previous.value} to {payload.current.value}"
    return EventEntry(
        time_ns=time_ns,
        tone=tone,
        source="policy",
        update_id=payload.update_id,
        text=f"{text} at KL {format_kl(payload.kl_divergence)}{head}",
    )


def run_started(payload: RunStarted, attempt: int, time_ns: int) -> EventEntry:
    """A run or another attempt began."""
    text = f"started on {payload.environment}, seed {payload.seed}"
    if attempt > 1:
        text = f"attempt {attempt} resumes at update {payload.first_update_id} on {payload.environment}"
    return EventEntry(time_ns=time_ns, tone="info", source="run", text=text)


def run_finished(payload: RunFinished, time_ns: int) -> EventEntry:
    """The run ended."""
    tone: EventTone = "critical" if payload.state is RunState.FAILED else "info"
    reason = f": {payload.reason}" if payload.reason else ""
    lost = sum(item.lost for item in payload.lost)
    tail = f", {count(lost)} events lost" if lost else ""
    text = f"{payload.state.value}{reason}, {count(payload.updates)} updates{tail}"
    return EventEntry(time_ns=time_ns, tone=tone, source="run", text=text)


def sink_status(payload: SinkStatusChanged, time_ns: int) -> EventEntry:
    """A sink's state changed."""
    calm = payload.state in {"ok", "recovered", "closed"} and not payload.lost
    tone: EventTone = "info" if calm else "warning"
    lost = f", {count(payload.lost)} lost" if payload.lost else ""
    message = f": {payload.message}" if payload.message else ""
    return EventEntry(time_ns=time_ns, tone=tone, source=f"sink.{payload.sink}", text=f"{payload.state}{lost}{message}")


def bad_event(error: Exception, time_ns: int) -> EventEntry:
    """An event that could not be understood."""
    return EventEntry(
        time_ns=time_ns,
        tone="warning",
        source="sanctum",
        text=f"could not read an event: {type(error).__name__}: {error}",
    )

"""One entry of the event log for each kind of event: the sentence, and how loudly it is said. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_core.health import HealthLevel, RunState, level_under
from esper_core.reading import sentences
from esper_core.reading.snapshot import EventEntry, EventTone

if TYPE_CHECKING:
    from esper_core.events import (
        PolicyEvaluated,
        PolicyHealthChanged,
        PPOUpdatePayload,
        RunFinished,
        RunStarted,
        SinkStatusChanged,
    )
    from esper_core.health import KLLimits

__all__ = [
    "bad_event",
    "health_changed",
    "policy_evaluated",
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


def ppo_update(payload: PPOUpdatePayload, time_ns: int, limits: KLLimits) -> EventEntry:
    """An update: as loud as its level, and never silent about an early end."""
    tone = _TONES[level_under(payload, limits)]
    if tone == "info" and payload.early_stop is not None:
        tone = "stop"
    elif tone == "info" and payload.outcome != "completed":
        tone = "warning"
    text = sentences.update_text(payload, limits)
    return EventEntry(time_ns=time_ns, tone=tone, source="ppo.update", update_id=payload.update_id, text=text)


def health_changed(payload: PolicyHealthChanged, time_ns: int, limits: KLLimits) -> EventEntry:
    """The verdict's level moved."""
    worse = payload.current.severity > payload.previous.severity
    tone: EventTone = _TONES[payload.current] if worse else "good"
    text = sentences.health_changed(payload, limits=limits)
    return EventEntry(time_ns=time_ns, tone=tone, source="policy", update_id=payload.update_id, text=text)


def policy_evaluated(payload: PolicyEvaluated, time_ns: int) -> EventEntry:
    """The policy played without learning."""
    tone: EventTone = "good" if payload.better else "info"
    text = sentences.policy_evaluated(payload)
    return EventEntry(time_ns=time_ns, tone=tone, source="eval", update_id=payload.update_id, text=text)


def run_started(payload: RunStarted, attempt: int, time_ns: int) -> EventEntry:
    """A run or another attempt began."""
    return EventEntry(time_ns=time_ns, tone="info", source="run", text=sentences.run_started(payload, attempt))


def run_finished(payload: RunFinished, time_ns: int, *, rank: int = 0) -> EventEntry:
    """The run ended, as a rank tells it."""
    tone: EventTone = "critical" if payload.state is RunState.FAILED else "info"
    return EventEntry(
        time_ns=time_ns, tone=tone, source=f"rank {rank}" if rank else "run", text=sentences.run_finished(payload)
    )


def sink_status(payload: SinkStatusChanged, time_ns: int) -> EventEntry:
    """A sink's state changed."""
    calm = payload.state in {"ok", "recovered", "closed"} and not payload.lost
    tone: EventTone = "info" if calm else "warning"
    text = sentences.sink_status(payload)
    return EventEntry(time_ns=time_ns, tone=tone, source=f"sink.{payload.sink}", text=text)


def bad_event(error: Exception, time_ns: int) -> EventEntry:
    """An event that could not be understood."""
    return EventEntry(
        time_ns=time_ns,
        tone="warning",
        source="sanctum",
        text=f"could not read an event: {type(error).__name__}: {error}",
    )

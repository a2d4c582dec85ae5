"""A run's sign of life as every source reports it, and the merge with what its events say. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from esper_core.health import RunState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper_sink_tui.schema import SanctumSnapshot, SinkStatus

__all__ = ["STALE_FACTOR", "STALE_LEAST_S", "Life", "life_from_events", "merged_sinks"]

STALE_LEAST_S: Final = 10.0
STALE_FACTOR: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What is known of the process behind a run.

    Attributes:
        state: live, stalled, stale, crashed, stopped, failed, done or unknown.
        sign_ns: the last sign of life, unix nanoseconds; None when there was none.
        pid: of the trainer; None when unknown.
        host: where it runs; empty when unknown.
        message: how it ended, in words.
        updates: as the trainer counts them.
        sinks: as the host accounts for them.
    """

    state: RunState = RunState.UNKNOWN
    sign_ns: int | None = None
    pid: int | None = None
    host: str = ""
    message: str = ""
    updates: int = 0
    sinks: tuple[SinkStatus, ...] = ()


def life_from_events(snapshot: SanctumSnapshot, now_ns: int) -> Life:
    """A run known by its events alone (OTLP): its end if it told one, else live until it is silent for too long.

    Too long is three times the median gap between its updates, at least 10 s. A silent run is stale, never crashed:
    nobody here can see its process.
    """
    if snapshot.finished is not None:
        return Life(
            state=snapshot.finished.state,
            sign_ns=snapshot.last_event_ns,
            message=snapshot.finished.reason,
            updates=snapshot.updates,
        )
    if snapshot.last_event_ns is None:
        return Life()
    silent_s = (now_ns - snapshot.last_event_ns) / 1e9
    limit_s = max(STALE_LEAST_S, STALE_FACTOR * (snapshot.median_gap_s or 0.0))
    state = RunState.STALE if silent_s > limit_s else RunState.LIVE
    return Life(state=state, sign_ns=snapshot.last_event_ns, updates=snapshot.updates)


def merged_sinks(from_events: Iterable[SinkStatus], from_host: Iterable[SinkStatus]) -> tuple[SinkStatus, ...]:
    """One row a sink: the host's account of queue and lag, and the larger count of losses of the two."""
    merged = {item.name: item for item in from_events}
    for item in from_host:
        known = merged.get(item.name)
        if known is None:
            merged[item.name] = item
            continue
        merged[item.name] = replace(item, lost=max(item.lost, known.lost), message=item.message or known.message)
    return tuple(merged[name] for name in sorted(merged))

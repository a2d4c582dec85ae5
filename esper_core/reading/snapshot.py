"""SanctumSnapshot: everything that a run's events tell, as plain data: no clock, no file.

A snapshot shares nothing mutable with the aggregator that made it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from esper_core.reading.tamiyo import TamiyoState

if TYPE_CHECKING:
    from esper_core.events import HeadKind, PPOUpdatePayload, RunFinished
    from esper_core.reading.account import SinkAccount
    from esper_core.reading.ranks import RankHeard

__all__ = [
    "EVENT_LOG",
    "RECENT",
    "EventEntry",
    "EventTone",
    "HeadState",
    "RunPlan",
    "SanctumSnapshot",
]

RECENT: Final = 120
"""Updates the plot shows, and that a viewer reads before its first screen."""
EVENT_LOG: Final = 200
"""Lines the event log keeps."""

EventTone: TypeAlias = Literal["info", "good", "warning", "critical", "non_finite", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadState:
    """One head after the last update; see ``esper_core.events.HeadStats`` for the meaning of the fields."""

    name: str
    kl: float | None = None
    weight: float | None = None
    share: float | None = None
    kind: HeadKind = "categorical"
    entropy: float | None = None
    entropy_normalised: float | None = None
    differential: bool = False
    clip_fraction: float | None = None
    decisions: int = 0
    kl_history: tuple[float | None, ...] = ()
    entropy_history: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EventEntry:
    """One line of the event log.

    Attributes:
        time_ns: unix nanoseconds.
        tone: how it is drawn; never by colour alone.
        source: ``ppo.update``, ``sink.otlp``, ``run``, ...
        update_id: the update it belongs to, or None.
        text: what happened, in words.
    """

    time_ns: int
    tone: EventTone
    source: str
    update_id: int | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What the run said when it began; see ``esper_core.events.RunStarted``."""

    run_name: str = ""
    environment: str = ""
    heads: tuple[str, ...] = ()
    seed: int = 0
    ranks: int = 1
    updates: int | None = None
    steps: int | None = None
    episodes: int | None = None
    target_kl: float | None = None
    stop_threshold: float | None = None
    stop_on: str = "weighted"
    config_digest: str = ""
    started_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SanctumSnapshot:
    """Everything a screen shows of one run that its events tell.

    Attributes:
        run_id: the run.
        attempt: the newest attempt seen.
        plan: what the run said when it began.
        tamiyo: the policy after the last update.
        heads: one entry a head, in the policy's order.
        recent: the last 120 effective updates, oldest first.
        resumes: ids of those with which a later attempt began.
        last: the last of them.
        last_event_ns: time of the newest event of any kind.
        median_gap_s: median seconds between recent updates.
        sinks: by name.
        events: the event log, oldest first.
        finished: the end of the newest attempt, or None.
        ranks: those of the newest attempt that sent anything; of a run on disk only the first is read.
        seen: events taken in.
        duplicates: updates seen before or overtaken by a newer attempt.
        bad: events that could not be understood; never 0 by hiding them.
    """

    run_id: str = ""
    attempt: int = 0
    plan: RunPlan = field(default_factory=RunPlan)
    tamiyo: TamiyoState = field(default_factory=TamiyoState)
    heads: tuple[HeadState, ...] = ()
    recent: tuple[PPOUpdatePayload, ...] = ()
    resumes: tuple[int, ...] = ()
    last: PPOUpdatePayload | None = None
    last_event_ns: int | None = None
    median_gap_s: float | None = None
    sinks: tuple[SinkAccount, ...] = ()
    events: tuple[EventEntry, ...] = ()
    finished: RunFinished | None = None
    ranks: tuple[RankHeard, ...] = ()
    seen: int = 0
    duplicates: int = 0
    bad: int = 0

    @property
    def updates(self) -> int:
        """Updates of the run so far; ids count from 1 over all attempts."""
        return self.tamiyo.update_id

    @property
    def stopped_recently(self) -> int:
        """How many of the last ten updates stopped early."""
        return sum(self.tamiyo.early_stops)

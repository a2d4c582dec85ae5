"""What one screen shows, as one frozen value: every panel, ``--once`` and ``--json`` read only this. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from esper_core.health import (
    RunState,
    Suggestion,
    Verdict,
    VerdictInput,
    VerdictKind,
    state_suggestion,
    suggestion,
    verdict,
)
from esper_sink_tui.life import Life, merged_sinks
from esper_sink_tui.schema import SanctumSnapshot

if TYPE_CHECKING:
    from esper_core.events import PPOUpdatePayload
    from esper_sink_tui.schema import SinkStatus

__all__ = [
    "EventFilter",
    "Frozen",
    "HeadView",
    "Progress",
    "RunRow",
    "ScreenModel",
    "build",
    "judge",
    "progress_of",
    "run_row",
]

EventFilter: TypeAlias = Literal["all", "notable"]
HeadView: TypeAlias = Literal["kl", "entropy"]
JOURNAL = "journal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A view that stands still: the update it shows and how far the run has gone on."""

    update_id: int
    behind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is. ``fraction`` is None without a plan.

    Attributes:
        done: updates, steps or episodes so far.
        planned: as the run planned them; None without a plan.
        unit: ``upd``, ``steps`` or ``episodes``.
        fraction: 0..1.
        eta_s: seconds to go at the recent pace; None when it cannot be known.
    """

    done: int
    planned: int | None = None
    unit: str = "upd"
    fraction: float | None = None
    eta_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of the list."""

    run_id: str
    label: str
    state: RunState = RunState.UNKNOWN
    kind: VerdictKind = VerdictKind.UNKNOWN
    updates: int = 0
    kl: float | None = None
    return_mean: float | None = None
    steps_per_s: float | None = None
    group: str = ""
    marked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenModel:
    """Everything on the screen.

    Attributes:
        snapshot: of the run on show, or of the update a frozen view shows.
        life: of the run's process, now.
        verdict: the one judgement.
        advice: what to do next, or None.
        progress: how far, and until when.
        age_s: seconds since the last sign of life; None when there was none or the run has ended.
        ended_s: seconds since an ended run's last event; None while it runs.
        sinks: events and host merged.
        runs: the list of runs, the one on show marked by ``selected``.
        selected: run id on show.
        label: what people call it.
        frozen: set when the view stands still.
        event_filter: which lines of the log are shown.
        head_view: what the head panel shows beside the names.
        run_filter: text that the listed runs contain.
        source: where the data comes from, in words.
        corrupt: journal lines or requests that could not be read.
        notice: one line of news from the viewer itself; empty for none.
    """

    snapshot: SanctumSnapshot = field(default_factory=SanctumSnapshot)
    life: Life = field(default_factory=Life)
    verdict: Verdict = field(default_factory=lambda: verdict(VerdictInput()))
    advice: Suggestion | None = None
    progress: Progress = field(default_factory=lambda: Progress(done=0))
    age_s: float | None = None
    ended_s: float | None = None
    sinks: tuple[SinkStatus, ...] = ()
    runs: tuple[RunRow, ...] = ()
    selected: str = ""
    label: str = ""
    frozen: Frozen | None = None
    event_filter: EventFilter = "all"
    head_view: HeadView = "kl"
    run_filter: str = ""
    source: str = ""
    corrupt: int = 0
    notice: str = ""


def judge(snapshot: SanctumSnapshot, life: Life, *, age_s: float | None = None) -> Verdict:
    """The verdict on a run, through the one rule that everyone uses."""
    sinks = merged_sinks(snapshot.sinks, life.sinks)
    last = snapshot.last
    leading = last.leading_head if last is not None else None
    return verdict(
        VerdictInput(
            state=life.state,
            levels=tuple(snapshot.tamiyo.levels),
            updates=snapshot.updates,
            kl=last.kl_divergence if last is not None else None,
            head=leading.name if leading is not None else None,
            share=leading.share if leading is not None else None,
            journal_lost=sum(item.lost for item in sinks if item.name == JOURNAL),
            sink_lost=tuple((item.name, item.lost) for item in sinks if item.name != JOURNAL and item.lost),
            age_s=age_s,
            message=life.message if life.state in {RunState.FAILED, RunState.CRASHED} else "",
        )
    )


def _advice(last: PPOUpdatePayload | None) -> Suggestion | None:
    """The suggestion for the last update."""
    if last is None:
        return None
    leading = last.leading_head
    return suggestion(
        level=last.health,
        early_stopped=last.early_stop is not None,
        stopped_epoch=last.early_stop.epoch if last.early_stop is not None else None,
        epochs_planned=max(last.epochs_planned, 1),
        learning_rate=last.learning_rate,
        head=leading.name if leading is not None else None,
        share=leading.share if leading is not None else None,
    )


def progress_of(snapshot: SanctumSnapshot, life: Life) -> Progress:
    """Updates, steps or episodes done of those planned, and the time left at the pace of the last updates."""
    plan, gap = snapshot.plan, snapshot.median_gap_s
    done = snapshot.updates
    if plan.updates:
        return _progress(done, plan.updates, "upd", 1.0, gap, life)
    recent = snapshot.recent
    if plan.steps and recent:
        per_update = (recent[-1].env_steps - recent[0].env_steps) / max(len(recent) - 1, 1)
        return _progress(int(recent[-1].env_steps + per_update), plan.steps, "steps", per_update, gap, life)
    if plan.episodes and recent and recent[0].update_id == 1:
        total = sum(item.episodes for item in recent)
        return _progress(total, plan.episodes, "episodes", total / len(recent), gap, life)
    return Progress(done=done)


def _progress(done: int, planned: int, unit: str, per_update: float, gap_s: float | None, life: Life) -> Progress:
    left = max(planned - done, 0)
    eta = None
    if gap_s is not None and per_update > 0 and not life.state.ended:
        eta = left / per_update * gap_s
    return Progress(
        done=min(done, planned) if unit == "steps" else done,
        planned=planned,
        unit=unit,
        fraction=min(done / planned, 1.0) if planned else None,
        eta_s=eta if eta is not None and math.isfinite(eta) else None,
    )


def run_row(
    snapshot: SanctumSnapshot, life: Life, *, run_id: str, label: str, group: str = "", marked: bool = False
) -> RunRow:
    """A run as one row of the list."""
    last = snapshot.last
    return RunRow(
        run_id=run_id,
        label=label,
        state=life.state,
        kind=judge(snapshot, life).kind,
        updates=max(snapshot.updates, life.updates),
        kl=last.kl_divergence if last is not None else None,
        return_mean=_return(last),
        steps_per_s=last.steps_per_s if last is not None and not life.state.ended else None,
        group=group,
        marked=marked,
    )


def _return(last: PPOUpdatePayload | None) -> float | None:
    if last is None:
        return None
    return last.return_mean_100 if last.return_mean_100 is not None else last.return_mean


def build(
    snapshot: SanctumSnapshot,
    life: Life,
    *,
    now_ns: int,
    runs: tuple[RunRow, ...] = (),
    frozen: Frozen | None = None,
    event_filter: EventFilter = "all",
    head_view: HeadView = "kl",
    run_filter: str = "",
    source: str = "",
    corrupt: int = 0,
    notice: str = "",
    selected: str = "",
    label: str = "",
) -> ScreenModel:
    """Put a screen together. A frozen view judges the updates it shows and the run's state as it is now."""
    sign_ns = max((item for item in (life.sign_ns, snapshot.last_event_ns) if item is not None), default=None)
    since = None if sign_ns is None else max((now_ns - sign_ns) / 1e9, 0.0)
    age_s = None if life.state.ended else since
    judged = judge(snapshot, life, age_s=age_s)
    return ScreenModel(
        snapshot=snapshot,
        life=life,
        verdict=judged,
        advice=state_suggestion(judged.kind) or _advice(snapshot.last),
        progress=progress_of(snapshot, life),
        age_s=age_s,
        ended_s=since if life.state.ended else None,
        sinks=merged_sinks(snapshot.sinks, life.sinks),
        runs=runs,
        selected=selected or snapshot.run_id,
        label=label or snapshot.plan.run_name or snapshot.run_id,
        frozen=frozen,
        event_filter=event_filter,
        head_view=head_view,
        run_filter=run_filter,
        source=source,
        corrupt=corrupt,
        notice=notice,
    )

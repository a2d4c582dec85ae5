"""What one screen shows, as one frozen value: every panel, ``--once`` and ``--json`` read only this. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from esper_core.health import (
    DEFAULT_KL_LIMITS,
    KLLimits,
    RunState,
    Suggestion,
    Verdict,
    VerdictInput,
    VerdictKind,
    verdict,
)
from esper_core.reading.account import merged
from esper_core.reading.judged import judge_snapshot
from esper_core.reading.life import Life
from esper_core.reading.next_step import next_step, why
from esper_core.reading.progress import Progress, progress_of
from esper_core.reading.returns import return_to_show
from esper_core.reading.snapshot import SanctumSnapshot

if TYPE_CHECKING:
    from esper_core.reading.account import SinkAccount

__all__ = ["EventFilter", "Frozen", "HeadView", "RunRow", "ScreenModel", "build", "run_row"]

EventFilter: TypeAlias = Literal["all", "notable"]
HeadView: TypeAlias = Literal["kl", "entropy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A view that stands still: the update it shows and how far the run has gone on."""

    update_id: int
    behind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of the list.

    Attributes are those of the panels; beside them:
        judged: the verdict is known; False before the end of the run's journal was read.
        reason: of the verdict.
        ranks: that train together.
        kl: the one that ``limits`` are on.
        started_ns: unix nanoseconds.
    """

    run_id: str
    label: str
    state: RunState = RunState.UNKNOWN
    kind: VerdictKind = VerdictKind.UNKNOWN
    reason: str = ""
    judged: bool = True
    updates: int = 0
    ranks: int = 1
    kl: float | None = None
    limits: KLLimits = DEFAULT_KL_LIMITS
    return_mean: float | None = None
    steps_per_s: float | None = None
    group: str = ""
    marked: bool = False
    started_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenModel:
    """Everything on the screen.

    Attributes:
        snapshot: of the run on show, or of the update a frozen view shows.
        life: of the run's process, now.
        verdict: the one judgement; of a frozen view that of the update it shows.
        why: its reason, and which other rows are critical.
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
    why: str = ""
    advice: Suggestion | None = None
    progress: Progress = field(default_factory=lambda: Progress(done=0))
    age_s: float | None = None
    ended_s: float | None = None
    sinks: tuple[SinkAccount, ...] = ()
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


def run_row(
    snapshot: SanctumSnapshot,
    life: Life,
    *,
    run_id: str,
    label: str,
    group: str = "",
    marked: bool = False,
    started_ns: int | None = None,
) -> RunRow:
    """A run as one row of the list."""
    last = snapshot.last
    judged = judge_snapshot(snapshot, life)
    return RunRow(
        run_id=run_id,
        label=label,
        state=life.state,
        kind=judged.kind,
        reason=judged.reason,
        updates=max(snapshot.updates, life.updates),
        ranks=snapshot.plan.ranks,
        kl=snapshot.tamiyo.judged_kl,
        limits=snapshot.tamiyo.limits,
        return_mean=return_to_show(last),
        steps_per_s=last.steps_per_s if last is not None and not life.state.ended else None,
        group=group,
        marked=marked,
        started_ns=started_ns,
    )


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
    """Put a screen together. A view of an earlier update judges that update, as if the run had not gone on."""
    sign_ns = max((item for item in (life.sign_ns, snapshot.last_event_ns) if item is not None), default=None)
    since = None if sign_ns is None else max((now_ns - sign_ns) / 1e9, 0.0)
    age_s = None if life.state.ended else since
    # What lies behind an earlier update is neither a gap of the journal nor an end of the run.
    then = life if frozen is None or not frozen.behind else Life(state=RunState.LIVE, updates=snapshot.updates)
    judged = judge_snapshot(snapshot, then, age_s=age_s)
    known = label or snapshot.plan.run_name or snapshot.run_id
    return ScreenModel(
        snapshot=snapshot,
        life=life,
        verdict=judged,
        why=why(judged, snapshot),
        advice=next_step(snapshot, then, judged, run=known or "RUN"),
        progress=progress_of(snapshot, life),
        age_s=age_s,
        ended_s=since if life.state.ended else None,
        sinks=merged(snapshot.sinks, life.sinks),
        runs=runs,
        selected=selected or snapshot.run_id,
        label=known,
        frozen=frozen,
        event_filter=event_filter,
        head_view=head_view,
        run_filter=run_filter,
        source=source,
        corrupt=corrupt,
        notice=notice,
    )

"""How far a run is, of what was planned, and when it will be done. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from esper_core.events import PPOUpdatePayload
    from esper_core.reading.life import Life
    from esper_core.reading.snapshot import SanctumSnapshot

__all__ = ["Progress", "progress_of"]


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


def progress_of(snapshot: SanctumSnapshot, life: Life) -> Progress:
    """What was done of what was planned, and the time left at the pace of the last updates.

    Of several limits the nearest counts: the one that is reached first, and where no pace is known, or the run has
    ended, the one of which most is done.
    """
    found = list(_limits(snapshot, life))
    if not found:
        return Progress(done=life.updates if life.journal.absent else snapshot.updates)
    return min(found, key=lambda item: (item.eta_s is None, item.eta_s or 0.0, -(item.fraction or 0.0)))


def _limits(snapshot: SanctumSnapshot, life: Life) -> Iterator[Progress]:
    """Each planned limit, and how far the run is from it."""
    plan, gap, recent = snapshot.plan, snapshot.median_gap_s, snapshot.recent
    if plan.updates:
        done = life.updates if life.journal.absent else snapshot.updates
        yield _progress(done, plan.updates, "upd", 1.0, gap, life)
    if plan.steps and recent:
        per_update = (recent[-1].env_steps - recent[0].env_steps) / max(len(recent) - 1, 1)
        yield _progress(int(recent[-1].env_steps + per_update), plan.steps, "steps", per_update, gap, life)
    total = _episodes(recent)
    if plan.episodes and total is not None:
        per_update = sum(item.episodes for item in recent) / len(recent)
        yield _progress(total, plan.episodes, "episodes", per_update, gap, life)


def _episodes(recent: Sequence[PPOUpdatePayload]) -> int | None:
    """Episodes of the run so far: as the last update tells, else counted where every update is there."""
    if not recent:
        return None
    if recent[-1].run_episodes is not None:
        return recent[-1].run_episodes
    return sum(item.episodes for item in recent) if recent[0].update_id == 1 else None


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

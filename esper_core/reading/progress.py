"""How far a run is, of what was planned, and when it will be done. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    """Updates, steps or episodes done of those planned, and the time left at the pace of the last updates."""
    plan, gap = snapshot.plan, snapshot.median_gap_s
    done = life.updates if life.journal.absent else snapshot.updates
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

"""Which return stands for a run: one rule for lists, tables of runs and curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper_core.events import PPOUpdatePayload

__all__ = ["return_to_show"]


def return_to_show(update: PPOUpdatePayload | None) -> float | None:
    """The mean of the last 100 episodes, which moves little; without it, that of the rollout's finished episodes.

    None before the first finished episode.
    """
    if update is None:
        return None
    return update.return_mean_100 if update.return_mean_100 is not None else update.return_mean

"""What a run calls KL and is not the behaviour policy's: the newest of each divergence. Never a level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from esper_core.events import Divergence
    from esper_core.reading.snapshot import SanctumSnapshot

__all__ = ["SeenDivergence", "compared", "newest_divergences"]

_SIDES: Final = {"policy_reference": "KL(policy || {})", "reference_policy": "KL({} || policy)"}


@dataclass(frozen=True, slots=True)
class SeenDivergence:
    """One divergence and the update that last had it."""

    divergence: Divergence
    update_id: int


def newest_divergences(snapshot: SanctumSnapshot) -> tuple[SeenDivergence, ...]:
    """The newest of each divergence among the recent updates, in the order in which the run first told them.

    Two are the same when name, reference, estimator and direction are, and their place among those that are the same.
    """
    found: dict[tuple[str, str, str, str, int], SeenDivergence] = {}
    for update in snapshot.recent:
        told: dict[tuple[str, str, str, str], int] = {}
        for item in update.divergences:
            key = (item.name, item.reference, item.estimator, item.direction)
            told[key] = told.get(key, 0) + 1
            found[*key, told[key]] = SeenDivergence(item, update.update_id)
    return tuple(found.values())


def compared(item: Divergence) -> str:
    """Which way round, with what, and how it was estimated: ``KL(policy || reference_model), k3``."""
    sides = _SIDES.get(item.direction)
    words = sides.format(item.reference) if sides is not None else f"{item.direction} {item.reference}"
    return f"{words}, {item.estimator}"

"""The reward, in one place.

Per host epoch::

    reward = 10 * (accuracy - accuracy before) - rent - cost(operation)
    rent = rate * sum over slots of weight(stage) * parameters(blueprint) / HOST_SIZE

Accuracy is the share of the validation set that is classified right, so 1.0 of reward is 10 percentage points, and
gains add up to what the host ends with. The rate is the episode's. A module that learns holds four numbers for each
parameter (itself, its gradient, Adam's two moments); a FOSSILIZED one holds one, so its weight is a quarter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.lifecycle import Operation, Slot, Stage
from esper_env_morphogenesis.network import HOST_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ACCURACY_SCALE", "COSTS", "FOSSIL_WEIGHT", "charged_parameters", "rent", "reward"]

ACCURACY_SCALE: Final = 10.0
"""Reward for a gain of 1.0 in accuracy."""
FOSSIL_WEIGHT: Final = 0.25
"""Rent of a parameter that does not learn any more, against one that does."""
COSTS: Final = {
    Operation.WAIT: 0.0,
    Operation.GERMINATE: 0.05,
    Operation.PRUNE: 0.05,
    Operation.FOSSILIZE: 0.02,
}
"""What an operation costs, so that idle switching never pays."""


def charged_parameters(slots: Sequence[Slot]) -> float:
    """Parameters that rent is charged for: those of every living module, fossils at ``FOSSIL_WEIGHT``."""
    return sum(
        BLUEPRINTS[slot.blueprint].size * (FOSSIL_WEIGHT if slot.stage is Stage.FOSSILIZED else 1.0)
        for slot in slots
        if slot.living
    )


def rent(slots: Sequence[Slot], rate: float) -> float:
    """Rent of one host epoch."""
    return rate * charged_parameters(slots) / HOST_SIZE


def reward(*, gain: float, rent_charged: float, operation: Operation) -> float:
    """Reward of one host epoch; ``gain`` is the change of validation accuracy, -1 to 1."""
    return ACCURACY_SCALE * gain - rent_charged - COSTS[operation]

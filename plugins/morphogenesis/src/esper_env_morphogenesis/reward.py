"""The reward.

Per host epoch::

    reward = 10 * (accuracy - accuracy before) - rent - cost(operation)
    rent = rate * sum over slots of weight(stage) * parameters(blueprint) / HOST_SIZE

Accuracy is the share of the validation set that is classified correctly, so 1.0 of reward is 10 percentage points, and
the gains of an episode add up to the host's final accuracy. The rate is drawn per episode. A module that learns stores
four numbers for each parameter (itself, its gradient, Adam's two moments); a FOSSILIZED one stores one, so its weight
is a quarter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.host import HOST_SIZE
from esper_env_morphogenesis.lifecycle import Operation, Slot, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ACCURACY_SCALE", "COSTS", "FOSSIL_WEIGHT", "charged_parameters", "rent", "reward"]

ACCURACY_SCALE: Final = 10.0
"""Reward for a gain of 1.0 in accuracy."""
FOSSIL_WEIGHT: Final = 0.25
"""Rent of a parameter that no longer learns, relative to one that does."""
COSTS: Final = {
    Operation.WAIT: 0.0,
    Operation.GERMINATE: 0.05,
    Operation.PRUNE: 0.05,
    Operation.FOSSILIZE: 0.02,
}
"""The cost of each operation, so that operations without use lower the reward."""


def charged_parameters(slots: Sequence[Slot]) -> float:
    """The number of parameters for which rent is charged: those of every module, fossils times ``FOSSIL_WEIGHT``."""
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

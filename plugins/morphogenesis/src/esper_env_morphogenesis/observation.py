"""The agent's observation.

float32, every value about -1 to 2, in this order::

    host    epoch / epochs, accuracy, 5 * last gain, best accuracy so far - accuracy, training loss / ln 10,
            validation loss / ln 10, smoothness of the signals, log rent rate (-1 lowest, 1 highest), rent of the last
            epoch, living modules / MAX_GRAFTS
    slot    stage (one of 6), blueprint (one of 5), alpha, age in stage / 8, spread of the channels after it, response
            of its block; once for each slot

Smoothness is the correlation of neighbouring samples of the data in the host's order: near 1 in order, near 0
shuffled. Spread is the participation ratio of the channels' variances: 1/8 when one channel has all the variance, 0
when all channels are constant. Response is the share of the block's channels whose output varies with noise input: 0
for a dead block.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Final

import numpy as np

from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.data import CLASSES
from esper_env_morphogenesis.host import SLOTS
from esper_env_morphogenesis.lifecycle import MAX_GRAFTS, Stage
from esper_env_morphogenesis.world import RENT_RANGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from esper_env_morphogenesis.lifecycle import Slot

__all__ = ["LIVING", "PROGRESS", "RENT", "RESPONSES", "SIZE", "SLOT_SIZE", "SMOOTHNESS", "HostView", "observe"]

_HOST: Final = 10
_STAGES: Final = len(Stage)
SLOT_SIZE: Final = _STAGES + len(BLUEPRINTS) + 4
"""The number of values per slot."""
SIZE: Final = _HOST + SLOTS * SLOT_SIZE
"""The number of values of one observation."""
PROGRESS: Final = 0
"""The place of the share of the episode that has passed."""
LIVING: Final = 9
"""The place of the number of living modules."""
SMOOTHNESS: Final = 6
"""The place of the smoothness."""
RENT: Final = 7
"""The place of the log rent rate."""
RESPONSES: Final = tuple(_HOST + (slot + 1) * SLOT_SIZE - 1 for slot in range(SLOTS))
"""The places of the blocks' responses."""


@dataclass(frozen=True)
class HostView:
    """The measurements of one host at the end of an epoch; accuracies 0 to 1, losses in nats."""

    progress: float
    accuracy: float
    gain: float
    best_accuracy: float
    training_loss: float
    validation_loss: float
    smoothness: float
    rent_rate: float
    rent_charged: float
    spread: Sequence[float]
    response: Sequence[float]


def observe(view: HostView, slots: Sequence[Slot]) -> npt.NDArray[np.float32]:
    """One observation, (SIZE,)."""
    low, high = (log(rate) for rate in RENT_RANGE)
    values = np.zeros(SIZE, dtype=np.float32)
    values[:_HOST] = (
        view.progress,
        view.accuracy,
        5 * view.gain,
        view.best_accuracy - view.accuracy,
        min(view.training_loss / log(CLASSES), 2.0),
        min(view.validation_loss / log(CLASSES), 2.0),
        view.smoothness,
        2 * (log(view.rent_rate) - low) / (high - low) - 1,
        min(view.rent_charged, 2.0),
        sum(slot.living for slot in slots) / MAX_GRAFTS,
    )
    for index, slot in enumerate(slots):
        start = _HOST + index * SLOT_SIZE
        values[start + slot.stage] = 1.0
        if slot.living:
            values[start + _STAGES + slot.blueprint] = 1.0
        values[start + SLOT_SIZE - 4 : start + SLOT_SIZE] = (
            slot.alpha,
            min(slot.age / 8, 2.0),
            view.spread[index],
            view.response[index],
        )
    return values

"""The stages of a slot, as a pure state machine: no tensors, no clock, no randomness.

::

    DORMANT --GERMINATE--> TRAINING --offset epochs--> BLENDING --tempo epochs--> HOLDING --FOSSILIZE--> FOSSILIZED
       ^                                                                             |
       +---------COOL_DOWN epochs---------- PRUNED <---------------PRUNE-------------+

A module that is TRAINING learns but adds nothing to its host. BLENDING adds it with an alpha that rises by 1/tempo an
epoch and is 1 in the last one. HOLDING keeps it at 1 and still learns. FOSSILIZED keeps it at 1 until the episode ends:
the module no longer learns and costs less. A module can be pruned or fossilised only after it held for ``PROBATION``
epochs, so that its effect at full strength is measured first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "COOL_DOWN",
    "EMPTY",
    "MAX_GRAFTS",
    "OFFSETS",
    "PROBATION",
    "TEMPOS",
    "Operation",
    "Slot",
    "Stage",
    "advance",
    "apply",
    "legal_slots",
]

TEMPOS: Final = (1, 3, 6)
"""Choices of the ``tempo`` head: host epochs that a module takes to blend in."""
OFFSETS: Final = (1, 2, 4)
"""Choices of the ``tempo_offset`` head: host epochs between germination and the start of blending."""
COOL_DOWN: Final = 2
"""Host epochs during which a slot stays empty after its module was pruned."""
PROBATION: Final = 2
"""Host epochs that a module must have held before it can be pruned or fossilised."""
MAX_GRAFTS: Final = 2
"""Modules that a host can have at one time, one less than its slots: so the agent must choose where to graft."""


class Operation(IntEnum):
    """Choices of the ``operations`` head."""

    WAIT = 0
    GERMINATE = 1
    PRUNE = 2
    FOSSILIZE = 3


class Stage(IntEnum):
    """The stage of a slot."""

    DORMANT = 0
    TRAINING = 1
    BLENDING = 2
    HOLDING = 3
    FOSSILIZED = 4
    PRUNED = 5


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of one host.

    Attributes:
        stage: its stage.
        blueprint: index of the blueprint of its module; -1 when it has none.
        tempo: epochs of blending of that module.
        offset: epochs between its germination and its blending.
        age: host epochs spent in this stage.
        alpha: how much of the module is added to the host, 0 to 1.
    """

    stage: Stage = Stage.DORMANT
    blueprint: int = -1
    tempo: int = 0
    offset: int = 0
    age: int = 0
    alpha: float = 0.0

    @property
    def living(self) -> bool:
        """Whether the slot has a module."""
        return self.blueprint >= 0


EMPTY: Final = Slot()


def legal_slots(slots: Sequence[Slot], operation: Operation) -> tuple[bool, ...]:
    """For each slot of a host, whether an operation is legal there. WAIT has no slot: all True."""
    match operation:
        case Operation.WAIT:
            return (True,) * len(slots)
        case Operation.GERMINATE:
            room = sum(slot.living for slot in slots) < MAX_GRAFTS
            nursery_free = all(slot.stage is not Stage.TRAINING for slot in slots)
            return tuple(room and nursery_free and slot.stage is Stage.DORMANT for slot in slots)
        case Operation.PRUNE | Operation.FOSSILIZE:
            return tuple(slot.stage is Stage.HOLDING and slot.age >= PROBATION for slot in slots)


def apply(slot: Slot, operation: Operation, *, blueprint: int = 0, tempo: int = 1, offset: int = 1) -> Slot:
    """The slot after an operation on it, before the host epoch.

    Args:
        slot: the slot before the operation.
        operation: GERMINATE, PRUNE or FOSSILIZE; WAIT changes nothing.
        blueprint: index of the module to germinate.
        tempo: epochs for which it blends, at least 1.
        offset: epochs until it begins to blend, at least 1.

    Raises:
        ValueError: the operation is not legal in this stage.
    """
    match operation, slot.stage:
        case Operation.WAIT, _:
            return slot
        case Operation.GERMINATE, Stage.DORMANT:
            return Slot(stage=Stage.TRAINING, blueprint=blueprint, tempo=tempo, offset=offset)
        case Operation.PRUNE, Stage.HOLDING if slot.age >= PROBATION:
            return Slot(stage=Stage.PRUNED)
        case Operation.FOSSILIZE, Stage.HOLDING if slot.age >= PROBATION:
            return replace(slot, stage=Stage.FOSSILIZED, age=0)
        case _:
            raise ValueError(f"{operation.name} is not legal in a slot that is {slot.stage.name} for {slot.age} epochs")


def advance(slot: Slot) -> Slot:
    """The slot after one host epoch."""
    age = slot.age + 1
    match slot.stage:
        case Stage.TRAINING if age >= slot.offset:
            return replace(slot, stage=Stage.BLENDING, age=0, alpha=1 / slot.tempo)
        case Stage.BLENDING if age >= slot.tempo:
            return replace(slot, stage=Stage.HOLDING, age=0, alpha=1.0)
        case Stage.BLENDING:
            return replace(slot, age=age, alpha=(age + 1) / slot.tempo)
        case Stage.PRUNED if age >= COOL_DOWN:
            return EMPTY
        case _:
            return replace(slot, age=age)

"""The life of a slot: every transition, every forbidden one, and the masks that follow from it."""

from __future__ import annotations

import numpy as np
import pytest

from esper_env_morphogenesis.lifecycle import (
    COOL_DOWN,
    EMPTY,
    PROBATION,
    Operation,
    Slot,
    Stage,
    advance,
    apply,
    legal_slots,
)
from esper_env_morphogenesis.masks import CAUSAL_TABLE, HEAD_NAMES, HEAD_SIZES, conditional_mask, joint_mask

pytestmark = pytest.mark.numeric

SEED = {"blueprint": 2, "tempo": 3, "offset": 2}
TRAINING = Slot(Stage.TRAINING, **SEED)
BLENDING = Slot(Stage.BLENDING, **SEED, alpha=1 / 3)
HOLDING = Slot(Stage.HOLDING, **SEED, alpha=1.0)
PROVEN = Slot(Stage.HOLDING, **SEED, alpha=1.0, age=PROBATION)
FOSSILIZED = Slot(Stage.FOSSILIZED, **SEED, alpha=1.0)
PRUNED = Slot(Stage.PRUNED)

OPERATIONS = {
    (Operation.GERMINATE, EMPTY): TRAINING,
    (Operation.PRUNE, PROVEN): PRUNED,
    (Operation.FOSSILIZE, PROVEN): FOSSILIZED,
}
STAGES = (EMPTY, TRAINING, BLENDING, HOLDING, PROVEN, FOSSILIZED, PRUNED)


@pytest.mark.parametrize("operation", [Operation.GERMINATE, Operation.PRUNE, Operation.FOSSILIZE])
@pytest.mark.parametrize("slot", STAGES, ids=lambda slot: f"{slot.stage.name}-{slot.age}")
def test_operations_do_what_the_table_says_and_nothing_else(operation: Operation, slot: Slot) -> None:
    expected = OPERATIONS.get((operation, slot))
    assert legal_slots([slot], operation) == (expected is not None,)
    if expected is None:
        with pytest.raises(ValueError, match=f"{operation.name} is not legal in a slot that is {slot.stage.name}"):
            apply(slot, operation, **SEED)
    else:
        assert apply(slot, operation, **SEED) == expected


@pytest.mark.parametrize("slot", STAGES, ids=lambda slot: f"{slot.stage.name}-{slot.age}")
def test_waiting_changes_nothing(slot: Slot) -> None:
    assert apply(slot, Operation.WAIT) == slot


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (EMPTY, Slot(age=1)),
        (TRAINING, Slot(Stage.TRAINING, **SEED, age=1)),
        (Slot(Stage.TRAINING, **SEED, age=1), BLENDING),
        (BLENDING, Slot(Stage.BLENDING, **SEED, age=1, alpha=2 / 3)),
        (Slot(Stage.BLENDING, **SEED, age=1, alpha=2 / 3), Slot(Stage.BLENDING, **SEED, age=2, alpha=1.0)),
        (Slot(Stage.BLENDING, **SEED, age=2, alpha=1.0), HOLDING),
        (HOLDING, Slot(Stage.HOLDING, **SEED, alpha=1.0, age=1)),
        (FOSSILIZED, Slot(Stage.FOSSILIZED, **SEED, alpha=1.0, age=1)),
        (PRUNED, Slot(Stage.PRUNED, age=1)),
        (Slot(Stage.PRUNED, age=COOL_DOWN - 1), EMPTY),
    ],
    ids=lambda slot: f"{slot.stage.name}-{slot.age}",
)
def test_an_epoch_passes(before: Slot, after: Slot) -> None:
    assert advance(before) == after


@pytest.mark.parametrize(("tempo", "offset"), [(1, 1), (3, 2), (6, 4)])
def test_a_module_blends_after_offset_epochs_for_tempo_epochs(tempo: int, offset: int) -> None:
    slot, alphas = apply(EMPTY, Operation.GERMINATE, blueprint=0, tempo=tempo, offset=offset), []
    while slot.stage is not Stage.HOLDING:
        alphas.append(slot.alpha)
        slot = advance(slot)
    assert alphas[:offset] == [0.0] * offset
    assert alphas[offset:] == pytest.approx([(step + 1) / tempo for step in range(tempo)])
    assert slot.alpha == 1.0


@pytest.mark.parametrize(
    ("slots", "where"),
    [
        ((EMPTY, EMPTY, EMPTY), (True, True, True)),
        ((HOLDING, EMPTY, PRUNED), (False, True, False)),
        ((TRAINING, EMPTY, EMPTY), (False, False, False)),  # one module trains at a time
        ((HOLDING, FOSSILIZED, EMPTY), (False, False, False)),  # two modules are all a host carries
    ],
)
def test_where_a_module_can_germinate(slots: tuple[Slot, ...], where: tuple[bool, ...]) -> None:
    assert legal_slots(slots, Operation.GERMINATE) == where


def heads(row: np.ndarray) -> dict[str, list[int]]:
    parts = np.split(row, np.cumsum(HEAD_SIZES)[:-1])
    return {name: np.flatnonzero(part).tolist() for name, part in zip(HEAD_NAMES, parts, strict=True)}


def test_masks_of_each_operation() -> None:
    mask = conditional_mask((PROVEN, EMPTY, BLENDING))
    nothing = {"slot": [0], "blueprint": [0], "tempo": [0], "tempo_offset": [0]}
    possible = [Operation.WAIT, Operation.PRUNE, Operation.FOSSILIZE]  # two modules live: no room to germinate
    assert heads(mask[Operation.WAIT]) == {**nothing, "operations": possible}
    assert heads(mask[Operation.PRUNE]) == {**nothing, "operations": possible}
    alone = conditional_mask((PROVEN, EMPTY, EMPTY))
    assert heads(alone[Operation.GERMINATE]) == {
        "slot": [1, 2],
        "blueprint": [0, 1, 2, 3, 4],
        "tempo": [0, 1, 2],
        "tempo_offset": [0, 1, 2],
        "operations": [0, 1, 2, 3],
    }
    assert heads(joint_mask(mask)) == {**nothing, "operations": possible}


def test_a_host_with_nothing_to_decide_has_one_legal_action() -> None:
    assert joint_mask(conditional_mask((FOSSILIZED, EMPTY, FOSSILIZED))).sum() == len(HEAD_NAMES)


def test_causal_table_says_which_heads_an_operation_reads() -> None:
    reads = {op: [name for name, on in zip(HEAD_NAMES, CAUSAL_TABLE[op], strict=True) if on] for op in Operation}
    assert reads == {
        Operation.WAIT: ["operations"],
        Operation.GERMINATE: ["slot", "blueprint", "tempo", "tempo_offset", "operations"],
        Operation.PRUNE: ["slot", "operations"],
        Operation.FOSSILIZE: ["slot", "operations"],
    }

"""The legal choices in a host (action masks), and the heads that have an effect (causal mask).

The operation is sampled first; the masks of all other heads depend on it. Heads that an operation does not read have
one legal choice, 0, so that they make no decision and have no entropy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.host import SLOTS
from esper_env_morphogenesis.lifecycle import OFFSETS, TEMPOS, Operation, legal_slots

if TYPE_CHECKING:
    import numpy.typing as npt

    from esper_env_morphogenesis.lifecycle import Slot

__all__ = ["CAUSAL_TABLE", "CONDITIONING_HEAD", "HEAD_NAMES", "HEAD_SIZES", "conditional_mask", "joint_mask"]

HEAD_NAMES: Final = ("slot", "blueprint", "tempo", "tempo_offset", "operations")
HEAD_SIZES: Final = (SLOTS, len(BLUEPRINTS), len(TEMPOS), len(OFFSETS), len(Operation))
CONDITIONING_HEAD: Final = "operations"

CAUSAL_TABLE: Final[npt.NDArray[np.bool_]] = np.array(
    [
        # slot, blueprint, tempo, tempo_offset, operations
        (False, False, False, False, True),  # WAIT
        (True, True, True, True, True),  # GERMINATE
        (True, False, False, False, True),  # PRUNE
        (True, False, False, False, True),  # FOSSILIZE
    ]
)
"""bool (operations, heads): which heads of an action have an effect."""
CAUSAL_TABLE.setflags(write=False)

_STARTS: Final = np.cumsum((0, *HEAD_SIZES))


def conditional_mask(slots: tuple[Slot, ...]) -> npt.NDArray[np.bool_]:
    """Return bool (operations, sum of HEAD_SIZES): what is legal given each operation. Read-only."""
    return _rows(tuple(legal_slots(slots, operation) for operation in Operation))


@lru_cache(maxsize=1024)  # there are a few hundred patterns, and building one takes 30 times as long as a look-up
def _rows(legal: tuple[tuple[bool, ...], ...]) -> npt.NDArray[np.bool_]:
    rows = np.zeros((len(Operation), _STARTS[-1]), dtype=np.bool_)
    possible = [any(places) for places in legal]
    for operation in Operation:
        for head, start in enumerate(_STARTS[:-1]):
            rows[operation, start] = True  # the placeholder of a head that is not read
            if CAUSAL_TABLE[operation, head]:
                rows[operation, start : _STARTS[head + 1]] = True
        if CAUSAL_TABLE[operation, 0] and possible[operation]:
            rows[operation, :SLOTS] = legal[operation]
        rows[operation, _STARTS[-2] :] = possible
    rows.setflags(write=False)
    return rows


def joint_mask(conditional: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return bool (..., sum of HEAD_SIZES): legal under some legal operation; from masks (..., operations, sum)."""
    possible = conditional[..., 0, _STARTS[-2] :]
    legal: npt.NDArray[np.bool_] = np.logical_or.reduce(conditional & possible[..., :, None], axis=-2)
    return legal

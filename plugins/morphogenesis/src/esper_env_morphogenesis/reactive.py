"""Rules that read the observation and do not learn: the strongest baselines of the task.

The rule germinates beside a block whose response is 0 as soon as that is legal, and then waits. It needs no memory and
no more of the environment than the agent gets: the observation and the masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.host import SLOTS
from esper_env_morphogenesis.lifecycle import Operation
from esper_env_morphogenesis.masks import HEAD_SIZES
from esper_env_morphogenesis.observation import RENT, RESPONSES

if TYPE_CHECKING:
    from esper_env_morphogenesis.env import MorphogenesisEnv

__all__ = ["REPAIR", "Reactive"]

_NAMES: Final = tuple(blueprint.name for blueprint in BLUEPRINTS)
_OPERATIONS: Final = sum(HEAD_SIZES[:-1])


@dataclass(frozen=True, kw_only=True)
class Reactive:
    """Repairs every dead block that it sees, with the blueprint that pays at this rent; then waits.

    Attributes:
        rich: blueprint where the observed rent is below ``threshold``.
        cheap: blueprint elsewhere.
        threshold: observed log rent, -1 (lowest) to 1 (highest).
        tempo: choice of the tempo head.
        offset: choice of the tempo_offset head.
    """

    rich: str = "linear"
    cheap: str = "gated"
    threshold: float = 0.0
    tempo: int = 0
    offset: int = 0

    def __call__(
        self, env: MorphogenesisEnv, observations: npt.NDArray[Any], info: dict[str, Any], /
    ) -> npt.NDArray[np.int64]:
        """Actions int64 (n, heads)."""
        actions = np.zeros((env.num_envs, len(HEAD_SIZES)), dtype=np.int64)
        legal = info["conditional_action_mask"][:, Operation.GERMINATE]
        dead = legal[:, :SLOTS] & (observations[:, RESPONSES] == 0.0)
        for row in np.flatnonzero(dead.any(1) & legal[:, _OPERATIONS + Operation.GERMINATE]):
            name = self.rich if observations[row, RENT] < self.threshold else self.cheap
            actions[row] = (dead[row].argmax(), _NAMES.index(name), self.tempo, self.offset, Operation.GERMINATE)
        return actions


REPAIR: Final = Reactive()
"""Linear when rent is low, else gated; tempo 1, offset 1."""

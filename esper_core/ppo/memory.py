"""What a configuration needs of memory at least, worked out before any of it is taken.

An allocation that no machine can serve ends in the middle of a start, and one that the system promises and cannot keep
ends the whole process, or other people's. Each figure here is a lower bound, so that nothing that works is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from esper_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.config.schema import PPOConfig

__all__ = ["MemoryNeed", "memory_need", "refuse_beyond"]

_FLOAT: Final = 4
_COPIES: Final = 2
"""The collector's buffers, and the batch that is gathered from them."""
_STATES: Final = 4
"""Of a weight: itself, its gradient and Adam's two moments."""
_ENVIRONMENT: Final = 1 << 10
"""Bytes of one environment, at least: its rows in the buffers of Gymnasium and the object itself."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes, at least, by what takes them.

    Attributes:
        environments: of all environments.
        rollout: of one rollout.
        network: of weights, gradients and the optimizer.
        minibatch: of the activations of one minibatch.
    """

    environments: int
    rollout: int
    network: int
    minibatch: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.environments + self.rollout + self.network + self.minibatch

    @property
    def key(self) -> str:
        """The key to lower: that of the largest part."""
        parts = {
            "env.n_envs": self.environments,
            "ppo.rollout_steps or env.n_envs": self.rollout,
            "ppo.hidden": self.network,
            "ppo.minibatch_size": self.minibatch,
        }
        return max(parts, key=lambda key: parts[key])


def memory_need(
    config: PPOConfig,
    *,
    n_envs: int,
    obs_shape: Sequence[int] = (1,),
    heads: Sequence[int] = (2,),
    images: bool = False,
) -> MemoryNeed:
    """The least that training takes.

    Args:
        config: the table ``[ppo]``.
        n_envs: environments stepped together.
        obs_shape: of one observation; before the environment exists, one number.
        heads: the number of choices of each head, 0 for a Gaussian one; before the environment exists, one head of two.
        images: whether the observation has any, which convolutions read.
    """
    inputs, logits = math.prod(obs_shape), len(heads) * max(1, *heads)
    samples = config.rollout_steps * n_envs
    # Per sample: the observation, action (int64, or float32) and log-probability of each head, value, reward and
    # advantage.
    rollout = _COPIES * samples * (_FLOAT * inputs + len(heads) * ((_FLOAT if 0 in heads else 8) + _FLOAT) + 3 * _FLOAT)
    # Convolutions and a user's own network hold what only they know: nothing is counted.
    dense = config.policy == "mlp" or (config.policy == "auto" and not images)
    hidden = config.hidden if dense else ()
    widths = [inputs, *hidden] if dense else [1]
    weights = (
        sum(2 * fan_out * (fan_in + 1) for fan_in, fan_out in pairwise(widths))
        + (widths[-1] + 1) * (logits + 1)
        + sum(size == 0 for size in heads)
    )
    minibatch = min(config.minibatch_size, samples) * (2 * sum(hidden) + logits) * _FLOAT
    return MemoryNeed(n_envs * _ENVIRONMENT, rollout, weights * _FLOAT * _STATES, minibatch)


def refuse_beyond(need: MemoryNeed, available: int | None) -> None:
    """Refuse what cannot fit.

    Args:
        need: from :func:`memory_need`.
        available: bytes of memory the machine has in all; None when that is unknown, which refuses nothing.

    Raises:
        ConfigError: names the need, the memory and the key to lower.
    """
    if available is not None and need.total > available:
        raise ConfigError(
            f"training would take at least {_size(need.total)} of memory, and there are {_size(available)}: "
            f"{_size(need.environments + need.rollout)} for environments and rollout, {_size(need.network)} for the "
            f"network, {_size(need.minibatch)} for a minibatch",
            hint=f"lower {need.key}",
        )


def _size(count: int) -> str:
    """Bytes as people read them."""
    for exponent, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB")):
        if count >= 1024**exponent:
            return f"{count / 1024**exponent:,.1f} {unit}"
    return f"{count / 1024:,.1f} KiB"

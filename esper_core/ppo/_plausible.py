"""Whether what a checkpoint's file holds can be a checkpoint: asked before anything is built by its numbers."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["refuse_implausible"]

_COUNTS: Final = range(2**63)
_HEADS: Final = ((str, int), (str, int, str, float, float))
"""Types of a categorical head's name and size, and of another's kind and bounds beside them."""


def refuse_implausible(content: Mapping[str, Any]) -> None:
    """Raise for numbers that no agent has.

    Raises:
        KeyError: something is missing.
        TypeError: something has another type.
        ValueError: a number is out of its bounds, or the sizes are not those of the weights: a file that claims a
            larger policy than it holds would otherwise be built in memory first.
    """
    for name in ("update_id", "env_steps", "episodes"):
        value = content[name]
        if type(value) is not int or value not in _COUNTS:
            raise ValueError(f"{name} is {value!r}")
    if type(content["seed"]) is not int or content["seed"] < 0:
        raise ValueError(f"seed is {content['seed']!r}")
    if any(type(value) is not float for value in content["recent_returns"]):
        raise ValueError("recent_returns are no numbers")
    if any(tuple(map(type, head)) not in _HEADS for head in content["heads"]):
        raise ValueError("heads are no names with sizes")
    if any(type(size) is not int or size < 1 for size in content["obs_shape"]):
        raise ValueError(f"obs_shape is {content['obs_shape']!r}")
    weights = content["state"]["policy"]
    if not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise TypeError("the policy's state holds more than tensors")
    held = sum(weight.numel() for weight in weights.values())
    sizes = [prod(content["obs_shape"]), *content["config"]["hidden"]]
    claimed = sum(before * after for before, after in pairwise(sizes))
    if max(claimed, sum(max(1, head[1]) for head in content["heads"])) > held:
        raise ValueError(f"a policy of {claimed} weights is claimed, {held} are there")

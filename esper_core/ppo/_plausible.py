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
_INPUTS_PER_WEIGHT: Final = 1024
"""More inputs for each weight than any network that reads all of them has."""


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
    _refuse_form(content)
    weights = content["state"]["policy"]
    if not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise TypeError("the policy's state holds more than tensors")
    held = sum(weight.numel() for weight in weights.values())
    config, inputs = content["config"], prod(content["obs_shape"])
    if config.get("policy", "mlp") == "mlp":
        claimed = sum(before * after for before, after in pairwise([inputs, *config["hidden"]]))
    else:  # convolutions, and a user's own network, hold fewer weights than layers over all inputs
        claimed = inputs // _INPUTS_PER_WEIGHT
    if max(claimed, sum(max(1, head[1]) for head in content["heads"])) > held:
        raise ValueError(f"a policy of {claimed} weights is claimed, {held} are there")


def _refuse_form(content: Mapping[str, Any]) -> None:
    """Raise when an observation's form makes rows of another length than the weights read."""
    parts = (content.get("observation_form") or {}).get("parts")
    if parts is not None and prod(content["obs_shape"]) != sum(map(_numbers, parts)):
        raise ValueError(f"observations of {sum(map(_numbers, parts))} numbers in rows of {content['obs_shape']}")


def _numbers(part: Mapping[str, Any]) -> int:
    """How many a part of an observation's form has."""
    size = sum(part["sizes"]) if part["kind"] == "choices" else prod(part["shape"])
    if type(size) is not int or size < 0:
        raise ValueError(f"a part of the observation has {size!r} numbers")
    return size

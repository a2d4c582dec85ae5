"""bottleneck: maps the whole feature map to a few hidden units and back. The largest and most expensive module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from esper_env_morphogenesis.blueprints._base import CHANNELS, POSITIONS, Blueprint, Parameter

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BLUEPRINT"]

_HIDDEN: Final = 4
_FLAT: Final = POSITIONS * CHANNELS


def _forward(x: Tensor, down: Tensor, bias: Tensor, up: Tensor) -> Tensor:
    hidden = torch.relu(torch.baddbmm(bias[:, :, None], down, x.flatten(1, 2)))
    return (up @ hidden).view(x.shape)


BLUEPRINT = Blueprint(
    name="bottleneck",
    parameters=(
        Parameter((_HIDDEN, _FLAT), scale=(2 / _FLAT) ** 0.5),
        Parameter((_HIDDEN,)),
        Parameter((_FLAT, _HIDDEN), scale=0.5 * _HIDDEN**-0.5),
    ),
    forward=_forward,
)

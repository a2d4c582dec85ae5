"""gated: a pointwise map, each channel of which is multiplied by a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from esper_env_morphogenesis.blueprints._base import CHANNELS, Blueprint, Parameter

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BLUEPRINT"]


def _forward(x: Tensor, gate: Tensor, gate_bias: Tensor, value: Tensor) -> Tensor:
    columns = x.flatten(2)
    gated = torch.sigmoid(torch.baddbmm(gate_bias[:, :, None], gate, columns)) * (value @ columns)
    return gated.view(x.shape)


BLUEPRINT = Blueprint(
    name="gated",
    parameters=(
        Parameter((CHANNELS, CHANNELS), scale=CHANNELS**-0.5),
        Parameter((CHANNELS,)),
        Parameter((CHANNELS, CHANNELS), scale=CHANNELS**-0.5),
    ),
    forward=_forward,
)

"""conv: a convolution over neighbouring positions. Useful when the samples of the signal are in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from esper_env_morphogenesis.blueprints._base import CHANNELS, Blueprint, Parameter

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BLUEPRINT"]

_WIDTH: Final = 3


def _forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    positions = x.shape[2]
    padded = torch.nn.functional.pad(x, (0, 0, _WIDTH // 2, _WIDTH // 2))
    windows = torch.cat([padded[:, :, i : i + positions] for i in range(_WIDTH)], 1).flatten(2)
    return torch.relu(torch.baddbmm(bias[:, :, None], weight, windows)).view(x.shape)


BLUEPRINT = Blueprint(
    name="conv",
    parameters=(
        Parameter((CHANNELS, CHANNELS * _WIDTH), scale=(2 / (CHANNELS * _WIDTH)) ** 0.5),
        Parameter((CHANNELS,)),
    ),
    forward=_forward,
)

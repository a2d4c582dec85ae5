"""norm: normalises each position over its channels, scales and shifts. The cheapest module; it bypasses the block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_env_morphogenesis.blueprints._base import CHANNELS, Blueprint, Parameter

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BLUEPRINT"]


def _forward(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    scale = (centred.square().mean(1, keepdim=True) + 1e-2).rsqrt()
    return centred * scale * gain[:, :, None, None] + bias[:, :, None, None]


BLUEPRINT = Blueprint(
    name="norm", parameters=(Parameter((CHANNELS,), offset=0.5), Parameter((CHANNELS,))), forward=_forward
)

"""linear: one matrix from all positions to all positions, shared by all channels. Useful for shuffled signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_env_morphogenesis.blueprints._base import POSITIONS, Blueprint, Parameter

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BLUEPRINT"]


def _forward(x: Tensor, weight: Tensor) -> Tensor:
    return weight[:, None] @ x


BLUEPRINT = Blueprint(
    name="linear", parameters=(Parameter((POSITIONS, POSITIONS), scale=POSITIONS**-0.5),), forward=_forward
)

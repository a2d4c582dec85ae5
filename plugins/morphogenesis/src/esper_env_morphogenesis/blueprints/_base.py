"""Blueprint: a name, the shapes of its parameters, their initial values and a forward pass over stacked hosts."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["CHANNELS", "POSITIONS", "Blueprint", "Layout", "Parameter"]

POSITIONS: Final = 20
"""Positions of a host's feature map."""
CHANNELS: Final = 8
"""Channels of a host's feature map."""


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor of a blueprint.

    Attributes:
        shape: shape for one module.
        scale: standard deviation of the normal initial values; 0 sets all to ``offset``.
        offset: mean of the initial values.
    """

    shape: tuple[int, ...]
    scale: float = 0.0
    offset: float = 0.0

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Tensors stored one after the other in a flat vector.

    Attributes:
        parameters: the tensors, in order.
    """

    parameters: tuple[Parameter, ...]

    @property
    def size(self) -> int:
        """The number of elements of all tensors."""
        return sum(parameter.size for parameter in self.parameters)

    def start(self, generator: torch.Generator) -> Tensor:
        """Draw initial values: float32, (size,)."""
        parts = [
            torch.randn(p.size, generator=generator) * p.scale + p.offset
            if p.scale
            else torch.full((p.size,), p.offset)
            for p in self.parameters
        ]
        return torch.cat(parts)

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        """View stacked flat parameters (k, size) as one tensor per parameter, each (k, *shape)."""
        views, start = [], 0
        for parameter in self.parameters:
            views.append(flat[:, start : start + parameter.size].view(-1, *parameter.shape))
            start += parameter.size
        return tuple(views)


@dataclass(frozen=True, kw_only=True)
class Blueprint(Layout):
    """A kind of module that can be grafted into a slot; rent is charged for its ``size``.

    Attributes:
        name: its name in the agent's head and in the story.
        forward: ``(x, *parameters) -> y`` with x and y float32 (k, CHANNELS, POSITIONS, batch) and every parameter
            (k, *shape): k modules of k hosts in one call. ``y`` is added to the host's features. The batch is the last
            axis, so that every product is a small weight times a wide matrix: 3 times faster than the other order.
    """

    name: str
    forward: Callable[..., Tensor]

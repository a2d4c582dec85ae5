"""Action heads: what a policy decides, and how ragged heads lie in one rectangular tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from esper_core.errors import EnvironmentUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["HeadLayout", "HeadSpec"]


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """One categorical decision of the policy.

    Attributes:
        name: unique within the policy.
        size: number of choices, at least 1.
    """

    name: str
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise EnvironmentUnsupportedError(
                f"head {self.name} has {self.size} choices", hint="a head needs at least one choice"
            )


class HeadLayout:
    """Where each head's choices lie: flat (masks of environments) and padded (everything inside the policy).

    Flat is one row of ``total = sum(sizes)`` choices, head after head. Padded is ``(heads, width)`` with
    ``width = max(sizes)``; the columns beyond a head's size are never legal. All heads are computed at once on the
    padded view, so no loop over heads runs while training.

    Args:
        heads: at least one, with unique names, in the order of the action's columns.
    """

    def __init__(self, heads: Sequence[HeadSpec]) -> None:
        if not heads:
            raise EnvironmentUnsupportedError("a policy needs at least one head")
        self.heads = tuple(heads)
        self.names = tuple(head.name for head in heads)
        if len(set(self.names)) != len(self.names):
            raise EnvironmentUnsupportedError(f"head names repeat: {', '.join(self.names)}")
        self.sizes = tuple(head.size for head in heads)
        self.count = len(self.heads)
        self.width = max(self.sizes)
        self.total = sum(self.sizes)
        self.valid = torch.arange(self.width) < torch.tensor(self.sizes).unsqueeze(1)
        """bool (heads, width): True where a head has a choice."""
        self.padded = self.total != self.count * self.width
        """Whether any head is narrower than the widest."""
        self._columns = self.valid.flatten().nonzero().squeeze(1)

    def index(self, name: str) -> int:
        """Position of a head by name."""
        if name not in self.names:
            raise EnvironmentUnsupportedError(f"no head named {name}", hint=f"heads: {', '.join(self.names)}")
        return self.names.index(name)

    def pad(self, flat: Tensor, fill: float = 0.0) -> Tensor:
        """Flat ``(..., total)`` to padded ``(..., heads, width)``; the padding holds ``fill`` (False for bool)."""
        padded = flat.new_full((*flat.shape[:-1], self.count * self.width), fill)
        padded[..., self._columns] = flat
        return padded.view(*flat.shape[:-1], self.count, self.width)

    def flat(self, padded: Tensor) -> Tensor:
        """Padded ``(..., heads, width)`` to flat ``(..., total)``."""
        return padded.flatten(-2)[..., self._columns]

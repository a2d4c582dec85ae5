"""Where sums over samples cross ranks. One rank needs nothing; the seam stands wherever a sum is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Identity", "Reducer"]


class Reducer(Protocol):
    """Combines sufficient statistics and gradients of all ranks.

    Only sums and maxima cross ranks, never means: a mean of rank means is wrong as soon as masks differ. Every
    rank receives the same result, so every rank takes the same decision (early stop, non-finite, interrupt).
    All ranks call in the same order; a call may block until all have.
    """

    @property
    def world_size(self) -> int:
        """Number of ranks, at least 1."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """Element-wise sum of ``value`` over all ranks, on ``value``'s device."""
        ...

    def max(self, value: Tensor) -> Tensor:
        """Element-wise maximum of ``value`` over all ranks, on ``value``'s device."""
        ...


class Identity:
    """The reducer of one rank: returns what it is given."""

    world_size = 1

    def sum(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def max(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

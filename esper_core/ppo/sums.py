"""Named sums on the device: one vector, one reduction over ranks, one transfer; joined by name, not by position."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from esper_core.ppo.reducer import Reducer

__all__ = ["HostSums", "Sums"]

Sizes: TypeAlias = tuple[tuple[str, int], ...]
"""Name and number of values of each sum, in the order in which they are packed."""


class Sums:
    """Sums of any shape under their names, packed in one float64 vector.

    Args:
        vector: float64, every sum, flattened.
        sizes: where they lie in it.
    """

    __slots__ = ("sizes", "vector")

    def __init__(self, vector: Tensor, sizes: Sizes) -> None:
        self.vector = vector
        self.sizes = sizes

    @classmethod
    def of(cls, parts: Mapping[str, Tensor]) -> Sums:
        """Pack tensors of one device with at most one dimension; float32 and integers are exact in float64."""
        # Converted before they are joined: joining mixed types is dearer, and promotes counts to float32 when no
        # float64 is among them. Single numbers are stacked: giving each a dimension costs more than the stack.
        rows = {name: part.double() for name, part in parts.items() if part.dim()}
        numbers = {name: part.double() for name, part in parts.items() if not part.dim()}
        sizes = (*((name, len(row)) for name, row in rows.items()), *((name, 1) for name in numbers))
        packed = [*rows.values(), torch.stack(tuple(numbers.values()))] if numbers else [*rows.values()]
        return cls(torch.cat(packed) if len(packed) > 1 else packed[0], sizes)

    @classmethod
    def joined(cls, *groups: Sums) -> Sums:
        """Several side by side: one transfer instead of many."""
        sizes: Sizes = ()
        for group in groups:
            sizes += group.sizes
        return cls(torch.cat([group.vector for group in groups]), sizes)

    def __add__(self, other: Sums) -> Sums:
        """Name by name."""
        return Sums(self.vector + self._same_names(other).vector, self.sizes)

    def most(self, other: Sums) -> Sums:
        """The larger of both, name by name: for extremes. A NaN wins."""
        return Sums(torch.maximum(self.vector, self._same_names(other).vector), self.sizes)

    def over_ranks(self, reducer: Reducer) -> Sums:
        """Added up over all ranks."""
        return Sums(reducer.sum(self.vector), self.sizes)

    def most_of_ranks(self, reducer: Reducer) -> Sums:
        """The largest of all ranks, for extremes."""
        return Sums(reducer.max(self.vector), self.sizes)

    def one(self, name: str) -> Tensor:
        """float64 (): the only value of one name, still on the device."""
        start = 0
        for other, size in self.sizes:
            if other == name:
                return self.vector[start]
            start += size
        raise KeyError(name)

    def to_host(self) -> HostSums:
        """The one transfer."""
        return HostSums(self.vector.tolist(), self.sizes)

    def _same_names(self, other: Sums) -> Sums:
        if self.sizes != other.sizes:
            raise ValueError(f"sums under different names: {self.sizes} and {other.sizes}")
        return other


class HostSums:
    """Sums that have reached the host.

    Args:
        numbers: every value.
        sizes: which are whose.
    """

    __slots__ = ("_values",)

    def __init__(self, numbers: list[float], sizes: Sizes) -> None:
        self._values: dict[str, tuple[float, ...]] = {}
        start = 0
        for name, size in sizes:
            self._values[name] = tuple(numbers[start : start + size])
            start += size

    def each(self, name: str) -> tuple[float, ...]:
        """All values of one name, for example one a head."""
        return self._values[name]

    def one(self, name: str) -> float:
        """The only value of one name."""
        (value,) = self._values[name]
        return value

    def group(self, prefix: str) -> dict[str, tuple[float, ...]]:
        """Everything named ``prefix/NAME``, by NAME."""
        start = f"{prefix}/"
        return {name.removeprefix(start): values for name, values in self._values.items() if name.startswith(start)}

"""The form of an action: how the columns that the heads decide become what the environment takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ActionForm"]


class ActionForm(msgspec.Struct, frozen=True, kw_only=True):
    """A number or an array of one dtype, or a tuple or a dict of forms.

    Attributes:
        dtype: of a number or an array, as NumPy names it.
        shape: of one action; empty for a number.
        start: what is added to each column's choice, which is counted from 0; empty for 0.
        parts: of a tuple or a dict; empty for a number or an array.
        keys: of a dict, one a part; empty for a tuple.
    """

    dtype: str = "int64"
    shape: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    parts: tuple[ActionForm, ...] = ()
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        np.dtype(self.dtype)  # TypeError for no dtype
        if self.keys and len(self.keys) != len(self.parts):
            raise ValueError(f"{len(self.keys)} keys for {len(self.parts)} parts")

    @property
    def columns(self) -> int:
        """How many columns, and so heads, it takes."""
        return sum(part.columns for part in self.parts) if self.parts else math.prod(self.shape)

    def batch(self, columns: NDArray[Any]) -> Any:
        """Actions of n environments, which share no memory with ``columns``.

        Args:
            columns: (n, columns): choices counted from 0, and values within their bounds.

        Returns:
            (n, *shape), or a tuple or a dict of such arrays.
        """
        if not self.parts:
            values = columns.astype(self.dtype)
            if any(self.start):
                values += np.array(self.start, dtype=self.dtype)
            return values.reshape(len(values), *self.shape)
        ends = np.cumsum([part.columns for part in self.parts])
        items = [part.batch(part_of) for part, part_of in zip(self.parts, np.split(columns, ends[:-1], 1), strict=True)]
        return dict(zip(self.keys, items, strict=True)) if self.keys else tuple(items)

    def first(self, batch: Any) -> Any:
        """The first action of a batch."""
        if not self.parts:
            return np.asarray(batch[0]) if np.dtype(self.dtype).kind == "f" else batch[0]
        if self.keys:
            return {key: part.first(batch[key]) for key, part in zip(self.keys, self.parts, strict=True)}
        return tuple(part.first(item) for part, item in zip(self.parts, batch, strict=True))

"""NaN and Inf among what environments return, found and told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["finite", "first_fault"]


def finite(values: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(np.count_nonzero(np.isfinite(values)) == values.size)


def first_fault(what: str, values: NDArray[Any]) -> tuple[str, int]:
    """Where the first value is that is not finite, in words, and how many there are.

    Args:
        what: the values are.
        values: (n, ...), of n environments; at least one is not finite.
    """
    rows = values.reshape(len(values), -1)
    bad = ~np.isfinite(rows)
    env = int(np.flatnonzero(bad.any(axis=1))[0])
    return f"{what} of environment {env} is {rows[env][bad[env]][0]}", int(bad.sum())

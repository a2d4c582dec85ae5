"""Spaces as text: equal for equal spaces, whatever the version of Gymnasium or NumPy, and short enough to read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["space_text"]

_WRITTEN_OUT: Final = 8


def space_text(space: gym.Space[Any]) -> str:
    """The space in words, such as ``Box(0..255, (84, 84), uint8)`` or ``MultiDiscrete([4, 3])``.

    Bounds that differ by element are written out up to eight of them; more are told by the beginning of a digest.
    """
    if isinstance(space, gym.spaces.Discrete):
        return f"Discrete({int(space.n)}{_start(np.asarray(space.start))})"
    if isinstance(space, gym.spaces.MultiDiscrete):
        return f"MultiDiscrete({space.nvec.tolist()}{_start(space.start)})"
    if isinstance(space, gym.spaces.Box):
        return f"Box({_values(space.low)}..{_values(space.high)}, {tuple(space.shape)}, {space.dtype})"
    if isinstance(space, gym.spaces.MultiBinary):
        return f"MultiBinary({tuple(space.shape)})"
    if isinstance(space, gym.spaces.Tuple):
        return f"Tuple({', '.join(map(space_text, space.spaces))})"
    if isinstance(space, gym.spaces.Dict):
        return f"Dict({', '.join(f'{key}: {space_text(part)}' for key, part in space.spaces.items())})"
    return str(space)


def _start(values: NDArray[Any]) -> str:
    return f", start={values.tolist()}" if values.any() else ""


def _values(values: NDArray[Any]) -> str:
    flat = values.ravel()
    if flat.size and (flat == flat[0]).all():
        return f"{flat[0]:g}"
    if flat.size <= _WRITTEN_OUT:
        return f"[{' '.join(f'{value:g}' for value in flat)}]"
    return f"#{hashlib.sha256(flat.astype(np.float64).tobytes()).hexdigest()[:8]}"

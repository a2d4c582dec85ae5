"""What a loop may hand over, brought to one form: float arrays (rows, columns) on the host.

Accepted are torch tensors of any device and dtype, anything NumPy can read, lists, and dicts of one of these a head.
Two arrays must have equal shapes: (N,) against (N, 1) would broadcast to (N, N) and give a number that means nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from esper_core.errors import nearest
from esper_core.monitoring.misuse import MisuseError

__all__ = ["Columns", "Floats", "Mask", "column_of", "floats", "is_narrow", "scalar", "whole"]

Floats: TypeAlias = NDArray[np.floating[Any]]
Mask: TypeAlias = NDArray[np.bool_]

_NARROW = {"float16", "bfloat16"}
"""Types too coarse to subtract in: a log-probability of -5 is known to 0.004 in float16 and to 0.03 in bfloat16."""


@dataclass(frozen=True, slots=True)
class Columns:
    """How rows and columns are read.

    Attributes:
        heads: names, in the policy's order.
        tokens: rows are sequences and columns are tokens, all decisions of one head; else columns are heads.
    """

    heads: tuple[str, ...]
    tokens: bool = False

    def arrange(self, name: str, value: Any) -> Floats:
        """One input as a float array (rows, columns).

        Args:
            name: the argument, for errors.
            value: see the module.

        Raises:
            MisuseError: it has another shape, other heads, or no numbers.
        """
        if isinstance(value, Mapping):
            return self._stacked(name, value)
        return self._two_dimensional(name, floats(name, value))

    def pair(self, old: Any, new: Any) -> tuple[Floats, Floats]:
        """Old and new values, in equal shapes."""
        if isinstance(old, Mapping) is not isinstance(new, Mapping):
            raise MisuseError("old and new must both be dicts of heads, or both arrays")
        if not isinstance(old, Mapping):
            before, after = floats("old", old), floats("new", new)
            if before.shape != after.shape:
                raise MisuseError(
                    f"old has shape {before.shape} and new has shape {after.shape}; they must be equal",
                    hint="one of them was probably not flattened, or kept a last dimension of 1: .reshape(-1)",
                )
            return self._two_dimensional("old", before), self._two_dimensional("new", after)
        return self._stacked("old", old), self._stacked("new", new)

    def mask(self, name: str, value: Any, shape: tuple[int, ...]) -> Mask:
        """A mask as bool (rows, columns); one of (rows,) counts for every head.

        Args:
            name: the argument, for errors.
            value: bool, or numbers 0 and 1.
            shape: of the log-probabilities, as arranged.
        """
        if isinstance(value, Mapping):
            found = self._stacked(name, value)
        else:
            found = floats(name, value)
            if found.ndim == 1 and len(found) == shape[0] and not self.tokens:
                found = np.broadcast_to(found[:, None], shape)
        if found.shape != shape:
            raise MisuseError(f"{name} has shape {found.shape}, the log-probabilities have {shape}")
        on: Mask = np.not_equal(found, 0)
        if not np.array_equal(on, found):
            raise MisuseError(f"{name} must hold bools, or 0 and 1", hint="it says which decisions count")
        return on

    def _stacked(self, name: str, value: Mapping[Any, Any]) -> Floats:
        """A dict head -> (N,) as (N, heads)."""
        if self.tokens:
            raise MisuseError(f"{name} is a dict; with granularity='token' give an array (sequences, tokens)")
        unknown = [str(key) for key in value if key not in self.heads]
        missing = [head for head in self.heads if head not in value]
        if unknown:
            raise MisuseError(
                f'{name} names the head "{unknown[0]}", which monitor() was not told{nearest(unknown[0], self.heads)}',
                hint=f"heads are {', '.join(self.heads)}",
            )
        if missing:
            raise MisuseError(f"{name} lacks the head {', '.join(missing)}")
        columns = [floats(f"{name}[{head!r}]", value[head]) for head in self.heads]
        shapes = {head: column.shape for head, column in zip(self.heads, columns, strict=True)}
        if len(set(shapes.values())) > 1 or columns[0].ndim != 1:
            said = ", ".join(f"{head} {shape}" for head, shape in shapes.items())
            raise MisuseError(f"{name}: every head needs the same shape (N,); given are {said}")
        return np.stack(columns, axis=1)

    def _two_dimensional(self, name: str, found: Floats) -> Floats:
        if self.tokens:
            if found.ndim != 2:  # rows and columns
                raise MisuseError(f"{name} has shape {found.shape}; granularity='token' needs (sequences, tokens)")
            return found
        count = len(self.heads)
        if found.ndim == 1:
            if count == 1:
                return found[:, None]
            raise MisuseError(
                f"{name} has shape {found.shape}, one column, for {count} heads ({', '.join(self.heads)})",
                hint=f"give (N, {count}), or a dict of heads; monitor() with one head takes the joint log-probability",
            )
        if found.ndim == 2 and found.shape[1] == count:  # rows and columns
            return found
        expected = "(N,) or (N, 1)" if count == 1 else f"(N, {count}), a column for each of {', '.join(self.heads)}"
        raise MisuseError(
            f"{name} has shape {found.shape}; needed is {expected}",
            hint="flatten steps and environments first: .reshape(-1)" if count == 1 else None,
        )


def floats(name: str, value: Any) -> Floats:
    """Any array of numbers as a float32 or float64 array on the host; narrower types are cast up.

    One transfer when it is on a device.
    """
    if isinstance(value, (list, tuple)) and value and hasattr(value[0], "detach"):
        value = _stacked(name, value)
    if hasattr(value, "detach"):  # a torch tensor; torch is not imported for others
        value = _on_host(name, value.detach())
    try:
        found = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise MisuseError(f"{name} is not an array of numbers: {error}") from None
    if found.dtype.kind not in "fiub":
        raise MisuseError(f"{name} holds {found.dtype}, not numbers")
    if found.dtype in (np.float32, np.float64):
        return found
    return found.astype(np.float32 if found.dtype == np.float16 else np.float64)


def _stacked(name: str, tensors: Sequence[Any]) -> Any:
    """A list of tensors, as a loop collects them step by step, as one."""
    try:
        return sys.modules["torch"].stack([item.detach() for item in tensors])
    except (AttributeError, TypeError, RuntimeError) as error:
        raise MisuseError(f"{name} is a list of tensors that do not make one: {error}") from None


def is_narrow(tensor: Any) -> bool:
    """Whether a tensor's type is too coarse to subtract in."""
    return str(tensor.dtype).removeprefix("torch.") in _NARROW


def _on_host(name: str, tensor: Any) -> Any:
    try:
        return (tensor.float() if is_narrow(tensor) else tensor).cpu().numpy()
    except (TypeError, NotImplementedError) as error:  # a sparse one, or one without data
        raise MisuseError(f"{name} is a tensor that holds no plain numbers: {error}") from None


def column_of(name: str, value: Any, rows: int) -> NDArray[np.float64]:
    """One number a step, float64 (rows,): advantages, returns or values, flattened from any shape."""
    found = floats(name, value).reshape(-1).astype(np.float64)
    if len(found) != rows:
        raise MisuseError(f"{name} holds {len(found)} numbers, the log-probabilities have {rows} rows")
    return found


def scalar(name: str, value: Any) -> float | int | None:
    """A field's number: of Python, of NumPy, or a tensor with one element. Ints stay ints."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    try:
        found = value.item()
    except (AttributeError, ValueError, RuntimeError):
        found = value
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise MisuseError(f"{name} is {type(value).__name__}; a number is needed", hint="for a tensor: its .mean()")
    return found


def whole(name: str, value: Any, *, least: int = 0) -> int:
    """A count: as :func:`scalar`, finite and not below ``least``; a fraction is cut off."""
    found = scalar(name, value)
    if found is None:
        raise MisuseError(f"{name} is None; a number is needed")
    if not math.isfinite(found) or found < least:
        raise MisuseError(f"{name} is {found}; a whole number from {least} is needed")
    return int(found)

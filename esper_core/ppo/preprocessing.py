"""How an observation becomes the row of numbers that a policy reads: one pipeline for training, evaluation and ``act``.

An :class:`ObservationForm` is plain data, kept in the checkpoint: which arrays an observation consists of, what is done
to each, and where its numbers lie in the row. :class:`Preprocessing` does it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from msgspec import Struct

from esper_core.errors import EnvironmentContractError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ObservationForm", "Part", "PartKind", "Preprocessing"]

PartKind: TypeAlias = Literal["numbers", "image", "choices"]
_ACCEPTED: Final = {"f": "biuf", "b": "biu", "i": "biu", "u": "biu"}
"""Kind of a space's dtype -> NumPy kinds of arrays that it takes."""


class Part(Struct, frozen=True, kw_only=True):
    """One array of an observation.

    Attributes:
        kind: ``numbers`` become float32; an ``image`` does too, and keeps its shape in a convolutional trunk;
            ``choices`` become one-hot.
        shape: of the array.
        dtype: NumPy's name of its type, as the space declares it.
        path: keys (of a Dict) and indices (of a Tuple) that lead to it; empty where the observation is one array.
        low: what becomes 0: one number, or one an element; empty for numbers that are not scaled.
        high: what becomes 1, likewise.
        sizes: of choices: the values each element has.
        starts: of choices: the least of them.
    """

    kind: PartKind
    shape: tuple[int, ...]
    dtype: str
    path: tuple[str | int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Numbers in the row."""
        return sum(self.sizes) if self.kind == "choices" else math.prod(self.shape)

    def __str__(self) -> str:
        """In words, such as ``pixels: an image (84, 84, 4) of uint8 scaled from 0..255``."""
        where = f"{'.'.join(map(str, self.path))}: " if self.path else ""
        if self.kind == "choices":
            return f"{where}one-hot choices of {', '.join(map(str, self.sizes))}"
        what = "an image" if self.kind == "image" else "numbers"
        scaled = f" scaled from {_bounds(self.low, self.high)}" if self.low else ""
        return f"{where}{what} {self.shape} of {self.dtype}{scaled}"


class ObservationForm(Struct, frozen=True):
    """What an observation consists of; its parts lie in the row one after another.

    Attributes:
        parts: at least one.
    """

    parts: tuple[Part, ...]

    @classmethod
    def numbers(cls, shape: Sequence[int]) -> ObservationForm:
        """The form of one array of float32 that is read as it is."""
        return cls((Part(kind="numbers", shape=tuple(shape), dtype="float32"),))

    @property
    def size(self) -> int:
        """Length of a row."""
        return sum(part.size for part in self.parts)

    @property
    def images(self) -> bool:
        """Whether any part is an image."""
        return any(part.kind == "image" for part in self.parts)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """The numbers, bool (size), whose scale is unknown beforehand, so neither pixels nor choices."""
        return np.concatenate([np.full(part.size, part.kind == "numbers") for part in self.parts])

    def __str__(self) -> str:
        """In words."""
        return "; ".join(map(str, self.parts))


class Preprocessing:
    """Makes rows float32 of observations.

    Args:
        form: what they consist of.
    """

    def __init__(self, form: ObservationForm) -> None:
        self.form = form
        self.size = form.size
        self._encoders = [_encoder(part) for part in form.parts]
        # Nearly every environment shows one array: it takes no detour.
        self._only = self._encoders[0] if len(self._encoders) == 1 and not form.parts[0].path else None

    def rows(self, batch: Any, place: str) -> NDArray[np.float32]:
        """Observations of n environments as float32 (n, size).

        Args:
            batch: arrays (n, ...) of the spaces' shapes and dtypes, in dicts and tuples as the spaces are.
            place: the environment's id, for messages.

        Raises:
            EnvironmentContractError: a choice is outside its space.
        """
        if self._only is not None:
            return self._only(batch, place)
        found = [
            encode(leaf_of(batch, part.path), place)
            for encode, part in zip(self._encoders, self.form.parts, strict=True)
        ]
        return np.concatenate(found, axis=1)

    def read(self, observation: Any) -> tuple[NDArray[np.float32], bool]:
        """What somebody observed, one observation or n of them stacked, as float32 (n, size), and whether it was one.

        Raises:
            UsageError: it is not of this form.
            EnvironmentContractError: a choice is outside its space.
        """
        found, ranks = [], set()
        for encode, part in zip(self._encoders, self.form.parts, strict=True):
            array = _array_of(observation, part)
            ranks.add(array.ndim - len(part.shape))
            if array.ndim == len(part.shape):
                array = array[None]
            found.append(encode(array, "act()"))
        if len(ranks) > 1 or len({len(rows) for rows in found}) > 1:
            raise UsageError("act(): the parts of this observation are not of equally many environments")
        for part, own in zip(self.form.parts, found, strict=True):
            if not np.isfinite(own).all():
                first = own[~np.isfinite(own)][0]
                raise UsageError(
                    f"act(): {_name(part)} holds {first}",
                    hint=f"NaN, Inf and numbers beyond float32 end a training too; the policy was trained on {part}",
                )
        rows = found[0] if len(found) == 1 else np.concatenate(found, axis=1)
        return rows, ranks == {0}


def leaf_of(value: Any, path: Sequence[str | int]) -> Any:
    """The array that a path leads to; KeyError, IndexError or TypeError where there is none."""
    for step in path:
        value = value[step]
    return value


def _name(part: Part) -> str:
    return ".".join(map(str, part.path)) or "the observation"


def _array_of(observation: Any, part: Part) -> NDArray[Any]:
    """One part of an observation that a caller gave, of the part's dtype, with its shape or one dimension before it."""
    name = f"act(): {_name(part)}"
    hint = f"the policy was trained on {part}"
    try:
        value = leaf_of(observation, part.path)
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(f"{name} is missing: {type(error).__name__}: {error}", hint=hint) from error
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"{name} is no array of numbers: {error}", hint=hint) from error
    dtype = np.dtype(part.dtype)
    if array.dtype.kind not in _ACCEPTED[dtype.kind]:
        raise UsageError(f"{name} has dtype {array.dtype}, not {dtype}", hint=hint)
    if array.shape[-len(part.shape) :] != part.shape if part.shape else array.ndim > 1:
        raise UsageError(f"{name} has shape {array.shape}, not {part.shape} or (n, ...)", hint=hint)
    if array.ndim > len(part.shape) + 1:
        raise UsageError(f"{name} has shape {array.shape}, not {part.shape} or (n, ...)", hint=hint)
    if not array.size:
        raise UsageError(f"{name} has shape {array.shape}: there is none to act on", hint=hint)
    if array.dtype != dtype and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise UsageError(f"{name} has values from {array.min()} to {array.max()}, beyond {dtype}", hint=hint)
    with np.errstate(over="ignore"):  # what that makes infinite is refused
        return array.astype(dtype, copy=False)


def _encoder(part: Part) -> _Numbers | _Scaled | _OneHot:
    if part.kind == "choices":
        return _OneHot(part)
    return _Scaled(part) if part.low else _Numbers()


class _Numbers:
    """float32 as they are."""

    def __call__(self, batch: NDArray[Any], place: str) -> NDArray[np.float32]:
        del place
        rows = batch.reshape(len(batch), -1)
        if rows.dtype != np.float32:
            with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which the collector tells
                rows = rows.astype(np.float32)
        return rows


class _Scaled:
    """Bounds become 0 and 1."""

    def __init__(self, part: Part) -> None:
        self._low = np.asarray(part.low, dtype=np.float32)
        span = np.asarray(part.high, dtype=np.float32) - self._low
        self._span = np.where(span > 0, span, 1).astype(np.float32)  # a constant element stays what it is
        self._from_zero = not self._low.any()

    def __call__(self, batch: NDArray[Any], place: str) -> NDArray[np.float32]:
        del place
        rows = batch.reshape(len(batch), -1)
        scaled: NDArray[np.float32] = (rows if self._from_zero else rows - self._low) / self._span
        return scaled.astype(np.float32, copy=False)


class _OneHot:
    """One-hot rows of several columns beside each other."""

    def __init__(self, part: Part) -> None:
        self._sizes: NDArray[np.int64] = np.asarray(part.sizes, dtype=np.int64)
        self._low: NDArray[np.int64] = np.asarray(part.starts, dtype=np.int64)
        self._columns = np.concatenate(([0], np.cumsum(self._sizes)[:-1]))
        self._size = part.size
        self._name = f"{'.'.join(map(str, part.path))} of the " if part.path else ""

    def __call__(self, batch: NDArray[Any], place: str) -> NDArray[np.float32]:
        rows = batch.reshape(len(batch), -1)
        choices = rows.astype(np.int64, copy=False) - self._low
        outside = (choices < 0) | (choices >= self._sizes)
        if outside.any():
            row, column = (int(index) for index in np.argwhere(outside)[0])
            low, size = int(self._low[column]), int(self._sizes[column])
            raise EnvironmentContractError(
                f"{place}, environment {row}: {self._name}observation is {rows[row, column]}, "
                "outside its observation_space",
                hint=f"it has the {size} values {low} to {low + size - 1}",
            )
        hot = np.zeros((len(rows), self._size), dtype=np.float32)
        np.put_along_axis(hot, choices + self._columns, 1.0, axis=1)
        return hot


def _bounds(low: tuple[float, ...], high: tuple[float, ...]) -> str:
    return f"{low[0]:g}..{high[0]:g}" if len(low) == 1 else "bounds of each element"

"""Reads observations of a space: their form, and batches of them, checked, as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import gymnasium as gym
import numpy as np

from esper_core.envs.contract import described, observation_of
from esper_core.errors import EnvironmentContractError, EnvironmentUnsupportedError
from esper_core.ppo.preprocessing import ObservationForm, Part, Preprocessing, leaf_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from esper_core.ppo.preprocessing import PartKind
    from esper_core.ppo.task import FloatArray

__all__ = ["ObservationReader", "copied", "form_of", "leaf_checked", "leaves_of"]

_BYTE: Final = (0.0, 255.0)
_LEAST_SIDE: Final = 5
"""Of an image of several channels, in pixels."""
_LEAST_GREY: Final = 36
"""Of an image without channels: a smaller table of bytes is as likely a board."""
_MOST_CHANNELS: Final = 64


def form_of(space: gym.Space[Any], label: str, *, bytes_to: float | None = None) -> ObservationForm:
    """The form of a space's observations.

    Bytes (uint8) are scaled to 0..1 by their bounds: pixels by 255, flags of 0 and 1 stay what they are. Other numbers
    are not scaled. Discrete and MultiDiscrete become one-hot.

    Args:
        space: of one observation.
        label: the environment's id, for messages.
        bytes_to: divide every byte by this, whatever its bounds, as 0.1 did.

    Raises:
        EnvironmentUnsupportedError: an observation has no fixed number of elements.
    """
    parts = tuple(_part(leaf, path, label, bytes_to) for path, leaf in leaves_of(space))
    form = ObservationForm(parts)
    if not form.size:
        raise EnvironmentUnsupportedError(
            f"{label} has observation space {space}, which has no elements",
            hint="a policy needs something to see: without any, declare Discrete(1) and return 0",
        )
    return form


def leaves_of(space: gym.Space[Any], path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every space of one array within a space, with the keys and indices that lead to it."""
    if isinstance(space, gym.spaces.Dict):
        for key, inner in space.spaces.items():
            yield from leaves_of(inner, (*path, key))
    elif isinstance(space, gym.spaces.Tuple):
        for index, inner in enumerate(space.spaces):
            yield from leaves_of(inner, (*path, index))
    else:
        yield path, space


def copied(observation: Any) -> Any:
    """An observation that nothing else holds."""
    if isinstance(observation, dict):
        return {key: copied(value) for key, value in observation.items()}
    if isinstance(observation, tuple):
        return tuple(map(copied, observation))
    return np.array(observation)


def leaf_checked(
    values: Any, path: tuple[str | int, ...], shape: tuple[int, ...], dtype: np.dtype[Any], place: str
) -> NDArray[Any]:
    """One array of an observation of several, when it is there and fits its space."""
    name = ".".join(map(str, path))
    try:
        value = leaf_of(values, path)
    except (KeyError, IndexError, TypeError) as error:
        whole = isinstance(values, dict if isinstance(path[0], str) else tuple)
        lacks = f"without {name}" if whole else f"in place of a {'dict' if isinstance(path[0], str) else 'tuple'}"
        raise EnvironmentContractError(
            f"{place}: observation is {described(values)} {lacks}",
            hint="return what the observation_space declares, or declare what is returned",
        ) from error
    return observation_of(value, shape, dtype, f"{place}, {name}")


class ObservationReader:
    """Checks observations of a space and makes rows of them.

    Args:
        space: of one observation.
        n_envs: environments in a batch.
        label: the environment's id, for messages.
        bytes_to: see :func:`form_of`.
    """

    def __init__(self, space: gym.Space[Any], n_envs: int, label: str, *, bytes_to: float | None = None) -> None:
        self.form = form_of(space, label, bytes_to=bytes_to)
        self._preprocessing = Preprocessing(self.form)
        self._label = label
        self._n_envs = n_envs
        self._everyone = f"{label}, all environments"
        self._parts = [(part, np.dtype(part.dtype)) for part in self.form.parts]
        self._single = not self.form.parts[0].path
        self._shape, self._dtype = self.form.parts[0].shape, self._parts[0][1]
        self._batch = (n_envs, *self._shape)
        self._flags = [path for path, leaf in leaves_of(space) if isinstance(leaf, gym.spaces.MultiBinary)]

    def rows(self, values: Any) -> FloatArray:
        """Observations of all environments, as a vector environment returns them, as float32 (n, inputs)."""
        if self._single:
            checked = observation_of(values, self._batch, self._dtype, self._everyone)
        else:
            checked = self._checked(values, (self._n_envs,), self._everyone)
        if self._flags:
            self._refuse_other_flags(checked)
        return self._preprocessing.rows(checked, self._label)

    def row(self, value: Any, place: str) -> FloatArray:
        """One observation as float32 (inputs)."""
        if self._single:
            checked = observation_of(value, self._shape, self._dtype, place)[None]
        else:
            checked = self._checked(value, (), place)
            checked = _each(checked, lambda array: array[None])
        if self._flags:
            self._refuse_other_flags(checked)
        row: FloatArray = self._preprocessing.rows(checked, self._label)[0]
        return row

    def _refuse_other_flags(self, values: Any) -> None:
        """Raise for a value of a MultiBinary space that is neither 0 nor 1, as for one outside a Discrete space."""
        for path in self._flags:
            array = leaf_of(values, path)
            if array.size and (array.min() < 0 or array.max() > 1):
                row, value = next((row, value) for row, value in enumerate(array) if value.min() < 0 or value.max() > 1)
                where = f", {'.'.join(map(str, path))}" if path else ""
                raise EnvironmentContractError(
                    f"{self._label}, environment {row}{where}: observation is "
                    f"{value.min() if value.min() < 0 else value.max()}, outside its observation_space",
                    hint="MultiBinary has the values 0 and 1",
                )

    def _checked(self, values: Any, before: tuple[int, ...], place: str) -> Any:
        """Every array of an observation of several, in nested dicts by the steps of its path."""
        found: dict[Any, Any] = {}
        for part, dtype in self._parts:
            inner = found
            for step in part.path[:-1]:
                inner = inner.setdefault(step, {})
            inner[part.path[-1]] = leaf_checked(values, part.path, (*before, *part.shape), dtype, place)
        return found


def _each(values: Any, change: Any) -> Any:
    return {key: _each(value, change) for key, value in values.items()} if isinstance(values, dict) else change(values)


def _part(space: gym.Space[Any], path: tuple[str | int, ...], label: str, bytes_to: float | None) -> Part:
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        sizes = np.asarray(space.nvec if isinstance(space, gym.spaces.MultiDiscrete) else space.n).reshape(-1)
        return Part(
            kind="choices",
            path=path,
            shape=tuple(space.shape or ()),
            dtype=str(space.dtype),
            sizes=tuple(map(int, sizes)),
            starts=tuple(map(int, np.asarray(space.start).reshape(-1))),
        )
    if isinstance(space, gym.spaces.Box | gym.spaces.MultiBinary):
        low, high = _scale(space, bytes_to)
        kind: PartKind = "image" if isinstance(space, gym.spaces.Box) and _is_image(space) else "numbers"
        return Part(kind=kind, path=path, shape=tuple(space.shape), dtype=str(space.dtype), low=low, high=high)
    where = f" at {'.'.join(map(str, path))}" if path else ""
    raise EnvironmentUnsupportedError(
        f"{label} has observation space {space}{where}",
        hint="Box, Discrete, MultiDiscrete and MultiBinary can be read, and Dict and Tuple of these; convert others in "
        "a wrapper",
    )


def _scale(space: gym.Space[Any], bytes_to: float | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What becomes 0 and what becomes 1; nothing where numbers are not scaled."""
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8:
        return (), ()
    if bytes_to is not None:
        return (0.0,), (bytes_to,)
    low, high = (np.unique(bound) for bound in (space.low, space.high))
    if len(low) == 1 and len(high) == 1:
        return (float(low[0]),), (float(high[0]),)
    return tuple(map(float, space.low.ravel())), tuple(map(float, space.high.ravel()))


def _is_image(space: gym.spaces.Box) -> bool:
    """Whether the numbers of a space are pixels: by shape, and by what they may be (bytes, flags, or 0 to 1)."""
    if not space.shape or min(space.shape) < 1:
        return False
    low, high = float(space.low.min()), float(space.high.max())
    is_bytes = space.dtype == np.uint8 and (low, high) == _BYTE
    if len(space.shape) == 2:
        return is_bytes and min(space.shape) >= _LEAST_GREY
    if len(space.shape) not in {3, 4} or not (is_bytes or (low, high) == (0.0, 1.0)):
        return False
    *_, first, middle, last = space.shape
    sides = (first, middle) if last <= first else (middle, last)
    return min(sides) >= _LEAST_SIDE and min(first, last) <= _MOST_CHANNELS

"""What is derived from an environment's action space: its heads, one a column, and the form of an action.

A ``Discrete`` is one head, ``MultiDiscrete`` and ``MultiBinary`` are one a column, a ``Box`` is one Gaussian head a
dimension. ``Tuple`` and ``Dict`` hold any of these, nested as they like.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from esper_core.errors import EnvironmentUnsupportedError
from esper_core.ppo.actions import ActionForm
from esper_core.ppo.heads import HeadSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ActionSpace", "action_space"]

_NAME = "action"
_KNOWN = "Discrete, MultiDiscrete, MultiBinary, Box of floats, and Tuple and Dict of these can be trained"


@dataclass(frozen=True, slots=True)
class ActionSpace:
    """An action space as the trainer sees it.

    Attributes:
        heads: one a column.
        form: how the columns make an action.
    """

    heads: tuple[HeadSpec, ...]
    form: ActionForm


def action_space(space: gym.Space[Any], label: str, names: Any = None) -> ActionSpace:
    """The heads and the form of an action space.

    Args:
        space: of one action.
        label: the environment's id, for messages.
        names: one name a head; None for names by the space: ``action`` of a single one, ``head_0``, ``head_1`` of a
            MultiDiscrete, else with the index of a dimension or of a Tuple's item (``action.0``, ``action.1.2``) and
            the key of a Dict's (``arm.0``).

    Raises:
        EnvironmentUnsupportedError: it cannot be trained, or has another number of names than of heads.
    """
    heads, form = _read(space, "", f"{label} has action space {space}")
    if names is None:
        return ActionSpace(tuple(heads), form)
    given = [names] if isinstance(names, str) else list(names)
    if len(given) != len(heads):
        raise EnvironmentUnsupportedError(
            f"{label} names {len(given)} heads, but {space} has {len(heads)}", hint="head_names has one name a head"
        )
    texts = [str(name) for name in given]
    wrong = next((text for text in texts if not text.strip() or texts.count(text) > 1), None)
    if wrong is not None:
        raise EnvironmentUnsupportedError(
            f'{label} names {"two heads" if wrong.strip() else "a head"} "{wrong}"',
            hint="head_names tells the heads apart: each name is another, and none is empty",
        )
    renamed = [
        HeadSpec(name, head.size, head.kind, head.low, head.high) for name, head in zip(texts, heads, strict=True)
    ]
    return ActionSpace(tuple(renamed), form)


def _read(space: gym.Space[Any], name: str, complaint: str) -> tuple[list[HeadSpec], ActionForm]:
    """Heads and form of a space; ``name`` is that of the part, empty for the whole."""
    if isinstance(space, gym.spaces.Tuple | gym.spaces.Dict):
        return _read_parts(space, name, complaint)
    if isinstance(space, gym.spaces.Discrete):
        head = HeadSpec(name or _NAME, int(space.n))
        return [head], ActionForm(dtype=str(space.dtype), start=(int(space.start),))
    if isinstance(space, gym.spaces.MultiDiscrete):
        shape = tuple(space.nvec.shape)
        labels = [f"head_{index}" for index in range(shape[0])] if not name and len(shape) == 1 else _names(name, shape)
        sizes = space.nvec.ravel().tolist()
        heads = [HeadSpec(label, size) for label, size in zip(labels, sizes, strict=True)]
        start = tuple(int(value) for value in space.start.ravel())
        return heads, _array(space, heads, complaint, start)
    if isinstance(space, gym.spaces.MultiBinary):
        heads = [HeadSpec(label, 2, "bernoulli") for label in _names(name, tuple(space.shape))]
        return heads, _array(space, heads, complaint)
    if isinstance(space, gym.spaces.Box):
        if space.dtype is None or space.dtype.kind != "f":
            raise EnvironmentUnsupportedError(
                f"{complaint}: a Box of {space.dtype} has no density to draw whole numbers from",
                hint="declare the Box with a float dtype and round in step(), or use MultiDiscrete",
            )
        heads = [
            HeadSpec(label, 0, "gaussian", low, high)
            for label, low, high in zip(
                _names(name, tuple(space.shape)), _bounds(space.low), _bounds(space.high), strict=True
            )
        ]
        return heads, _array(space, heads, complaint)
    raise EnvironmentUnsupportedError(complaint, hint=_KNOWN)


def _read_parts(
    space: gym.spaces.Tuple[Any] | gym.spaces.Dict, name: str, complaint: str
) -> tuple[list[HeadSpec], ActionForm]:
    """Heads and form of several spaces beside each other."""
    if isinstance(space, gym.spaces.Dict):
        keys = tuple(space.spaces)
        parts = [(f"{name}.{key}" if name else str(key), part) for key, part in space.spaces.items()]
    else:
        keys = ()
        parts = [(f"{name or _NAME}.{index}", part) for index, part in enumerate(space.spaces)]
    _refuse_empty(parts, complaint)
    heads: list[HeadSpec] = []
    forms: list[ActionForm] = []
    for label, part in parts:
        found, form = _read(part, label, complaint)
        heads += found
        forms.append(form)
    return heads, ActionForm(parts=tuple(forms), keys=keys)


def _array(space: gym.Space[Any], heads: list[HeadSpec], complaint: str, start: tuple[int, ...] = ()) -> ActionForm:
    _refuse_empty(heads, complaint)
    return ActionForm(dtype=str(space.dtype), shape=tuple(space.shape or ()), start=start)


def _refuse_empty(found: list[Any], complaint: str) -> None:
    if not found:
        raise EnvironmentUnsupportedError(
            f"{complaint}: nothing can be decided in a space of size 0", hint="leave it out, or give it a dimension"
        )


def _names(name: str, shape: tuple[int, ...]) -> list[str]:
    """A name for each element of an array: the part's own when it is the only one, else with its index."""
    name = name or _NAME
    places = list(np.ndindex(shape))
    if len(places) == 1:
        return [name]
    return [".".join((name, *map(str, place))) for place in places]


def _bounds(values: NDArray[Any]) -> list[float]:
    found: list[float] = values.astype(np.float64).ravel().tolist()
    return found

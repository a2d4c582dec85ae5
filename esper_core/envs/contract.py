"""What an environment may return, checked where it comes in. Each fault is one sentence: what, its shape, the remedy.

:class:`Gate` (one environment) and :class:`~esper_core.envs.adapter.GymTask` (a batch of them) share these functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from esper_core.errors import EnvironmentContractError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esper_core.ppo.task import BoolArray, FloatArray

__all__ = [
    "MASK_REMEDY",
    "REAL",
    "STEP_REMEDY",
    "array_of",
    "conditional_without_head",
    "described",
    "flag_of",
    "flags_of",
    "info_of",
    "mask_of",
    "mask_without_choices",
    "observation_of",
    "reset_of",
    "reward_of",
    "rewards_of",
    "step_of",
]

REAL: Final = "biuf"
"""NumPy kinds of real numbers: bool, signed and unsigned integers, floats."""
MASK_REMEDY: Final = "a mask is bool (or integers 0 and 1), True where a choice is legal or a head had an effect"
_STEP: Final = ("observation", "reward", "terminated", "truncated", "info")
STEP_REMEDY: Final = f"step() returns a tuple of {len(_STEP)}: {', '.join(_STEP)}"
_OLD_STEP: Final = 4
_DONE_REMEDY: Final = "the old API's done has become two values, terminated and truncated"
_SHOWN: Final = 40
_BOOL: Final = np.dtype(bool)


def described(value: object) -> str:
    """A value in a few words: its type, and its shape and dtype, its length, or itself when it is short."""
    kind = "array" if isinstance(value, np.ndarray) else type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype") and getattr(value, "shape", ()) != ():
        return f"{_article(kind)} of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, tuple | list | dict | set):
        return f"{_article(kind)} of {len(value)} items" if len(value) != 1 else f"{_article(kind)} of 1 item"
    if value is None:
        return "None"
    shown = repr(value)
    if len(shown) > _SHOWN or type(value).__repr__ is object.__repr__:
        return _article(kind)
    return f"{_article(kind)}, {shown}"


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def array_of(value: object) -> NDArray[Any] | None:
    """A value as an array; None when it is none (ragged lists, tensors that need a gradient)."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        return None


def step_of(result: object, place: str) -> tuple[Any, Any, Any, Any, Any]:
    """What ``step()`` returned, when it has five values.

    Args:
        result: what was returned.
        place: the environment's id and, where it is known, its index.
    """
    if isinstance(result, tuple) and len(result) == len(_STEP):
        return result
    hint = STEP_REMEDY
    if isinstance(result, tuple | list) and len(result) == _OLD_STEP:
        hint = f"{hint}; {_DONE_REMEDY}"
    raise EnvironmentContractError(f"{place}: step() returned {described(result)}, not a tuple of five", hint=hint)


def reset_of(result: object, place: str) -> tuple[Any, Any]:
    """What ``reset()`` returned, when it is an observation and an info."""
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):  # a pair
        return result
    raise EnvironmentContractError(
        f"{place}: reset() returned {described(result)}, not an observation and an info dict",
        hint="reset() returns a tuple of 2: observation, info; an empty info is {}",
    )


def info_of(value: object, place: str) -> dict[str, Any]:
    """An ``info``, when it is a dict."""
    if isinstance(value, dict):
        return value
    raise EnvironmentContractError(
        f"{place}: info is {described(value)}, not a dict", hint="the fifth value of step() is a dict; {} when empty"
    )


def reward_of(value: object, place: str) -> float:
    """A reward as a float: a real number, or an array of one."""
    array = array_of(value)
    if array is None or array.size != 1 or array.dtype.kind not in REAL:
        raise EnvironmentContractError(
            f"{place}: reward is {described(value)}, not a number", hint="return one number, such as float(reward)"
        )
    return float(array.item())


def flag_of(name: str, value: object, place: str) -> bool:
    """``terminated`` or ``truncated`` as a bool: a bool, 0 or 1, or an array of one."""
    array = array_of(value)
    if array is not None and array.size == 1 and array.dtype.kind in "biu" and array.item() in {0, 1}:
        return bool(array.item())
    raise EnvironmentContractError(
        f"{place}: {name} is {described(value)}, not a bool",
        hint="terminated: the task has ended; truncated: a limit has cut the episode; each is True or False",
    )


def rewards_of(value: Any, count: int, place: str) -> FloatArray:
    """Rewards float64 (count,) of a vector environment."""
    if type(value) is np.ndarray and value.dtype == np.float64 and value.shape == (count,):
        return value
    rewards = array_of(value)
    if rewards is None or rewards.shape != (count,) or rewards.dtype.kind not in REAL:
        raise EnvironmentContractError(
            f"{place}: reward is {described(value if rewards is None else rewards)}",
            hint=f"a vector environment returns one number an environment: shape ({count},)",
        )
    return rewards.astype(np.float64, copy=False)


def flags_of(what: str, value: Any, count: int, place: str) -> BoolArray:
    """Flags bool (count,) of a vector environment, ``what`` of an error."""
    if type(value) is np.ndarray and value.dtype == bool and value.shape == (count,):
        return value
    return mask_of(what, value, (count,), "one value an environment", place)


def observation_of(value: object, shape: tuple[int, ...], dtype: np.dtype[Any], place: str) -> NDArray[Any]:
    """An observation as an array of its space's shape, of a dtype that fits the space's.

    Floats fit a float space whatever their width, and integers do; a float does not fit an integer space.
    """
    if type(value) is np.ndarray and value.dtype == dtype and value.shape == shape:
        return value
    array = array_of(value)
    if array is None or array.dtype.kind not in REAL:
        raise EnvironmentContractError(
            f"{place}: observation is {described(value)}, not an array of numbers",
            hint=f"its observation_space wants shape {shape} and dtype {dtype}",
        )
    if array.shape != shape:
        raise EnvironmentContractError(
            f"{place}: observation has shape {array.shape}, its observation_space has {shape}",
            hint="return observations of that shape, or declare the space that they have",
        )
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise EnvironmentContractError(
            f"{place}: observation has dtype {array.dtype}, its observation_space has {dtype}",
            hint=f"return it as {dtype}, or declare the space with dtype {array.dtype}",
        )
    return array


def mask_of(what: str, value: object, shape: tuple[int, ...], axes: str, place: str) -> BoolArray:
    """A mask as a bool array that nothing else holds.

    Args:
        what: the key in ``info``, or what else the mask is called.
        value: bool, or integers 0 and 1.
        shape: what it must have.
        axes: what that shape means, for the message.
        place: the environment's id and, where it is known, its index.
    """
    if type(value) is np.ndarray and value.dtype == _BOOL and value.shape == shape:
        return value.copy()
    array = array_of(value)
    if array is None or array.dtype.kind not in REAL:
        raise EnvironmentContractError(f"{place}: {what} is {described(value)}, not a mask", hint=MASK_REMEDY)
    if array.shape != shape:
        raise EnvironmentContractError(
            f"{place}: {what} has shape {array.shape}, expected {shape}", hint=f"{axes}; {MASK_REMEDY}"
        )
    # A float mask is mostly something else, a probability or a weight: 0.5 would count as legal.
    if array.dtype.kind == "f" or (array.dtype.kind != "b" and not _zeros_and_ones(array)):
        held = "" if array.dtype.kind == "f" else f" and values from {array.min()} to {array.max()}"
        raise EnvironmentContractError(f"{place}: {what} has dtype {array.dtype}{held}, not bool", hint=MASK_REMEDY)
    return np.array(array, dtype=bool)


def _zeros_and_ones(array: NDArray[Any]) -> bool:
    """Whether an array of integers holds only 0 and 1."""
    if array.dtype.itemsize == 1:  # in every step of environments with int8 masks: bytes are faster than arrays
        return not array.tobytes().translate(None, b"\x00\x01")
    return bool(((array == 0) | (array == 1)).all())


def mask_without_choices(place: str, key: str) -> EnvironmentContractError:
    """The error of a mask of choices for heads that have none."""
    return EnvironmentContractError(
        f'{place}: info["{key}"] is given, but no head has choices: its actions are continuous',
        hint="leave it out; info['causal_mask'] says which dimensions had an effect",
    )


def conditional_without_head(place: str) -> EnvironmentContractError:
    """The error of a conditional mask that no head selects a row of."""
    return EnvironmentContractError(
        f'{place}: info["conditional_action_mask"] is given, but no conditioning_head',
        hint="name the head that is sampled first: conditioning_head, an attribute of the environment",
    )

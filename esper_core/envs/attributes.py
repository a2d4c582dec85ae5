"""Attributes of an environment, asked of all its wrappers and of environments in other processes.

Gymnasium's wrappers do not pass attributes on: ``getattr`` finds only those of the outermost, ``unwrapped`` only those
of the innermost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import VectorWrapper

from esper_core.errors import EnvironmentUnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import gymnasium as gym

__all__ = ["layers", "vector_attribute", "wrapped_attribute"]


def layers(env: gym.vector.VectorEnv[Any, Any, Any]) -> Iterator[gym.vector.VectorEnv[Any, Any, Any]]:
    """A vector environment's wrappers, the outermost first, and the vector environment inside them."""
    while isinstance(env, VectorWrapper):
        yield env
        env = env.env
    yield env


def wrapped_attribute(env: gym.Env[Any, Any], name: str) -> Any:
    """An attribute of one environment or of any of its wrappers, the outermost first; called when it is a function."""
    value = env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
    return value() if callable(value) else value


def vector_attribute(env: gym.vector.VectorEnv[Any, Any, Any], name: str, label: str) -> Any:
    """An attribute of a vector environment, of any of its wrappers, or of its environments with their wrappers.

    Args:
        env: the vector environment. A function is called without arguments.
        name: the attribute.
        label: the environment's id, for messages.

    Returns:
        The value, or None where no layer has it.

    Raises:
        EnvironmentUnsupportedError: its environments hold different values.
    """
    base = env
    for base in layers(env):
        value = getattr(base, name, None)
        if value is not None:
            return value() if callable(value) else value
    # An environment in another process ends when it is asked for what it lacks: ask first whether it has it.
    call = getattr(base, "call", None)
    if call is None or not any(call("has_wrapper_attr", name)):
        return None
    first, *others = call(name) if all(call("has_wrapper_attr", name)) else (None, 0)
    if not all(_equal(first, other) for other in others):
        raise EnvironmentUnsupportedError(
            f"{label}: its environments do not agree on {name}", hint="all environments of a run share their heads"
        )
    return first


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return bool(np.array_equal(np.asarray(one), np.asarray(other)))
    except ValueError:  # rows of different lengths: told when the value is read
        return bool(one == other)

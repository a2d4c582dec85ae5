"""When a vector environment begins its episodes anew."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from gymnasium.vector import AutoresetMode

from esper_core.envs.attributes import layers
from esper_core.errors import EnvironmentUnsupportedError

if TYPE_CHECKING:
    import gymnasium as gym


__all__ = ["autoreset_of"]


def autoreset_of(
    env: gym.vector.VectorEnv[Any, Any, Any], name: str, allowed: tuple[AutoresetMode, ...]
) -> AutoresetMode:
    """When episodes begin anew; raise where that is not allowed, or not stated."""
    metadata = (layer.metadata or {} for layer in layers(env))
    mode = next((found["autoreset_mode"] for found in metadata if found.get("autoreset_mode") is not None), None)
    with contextlib.suppress(ValueError):  # the mode's value, as a configuration file would hold it
        mode = AutoresetMode(mode)
    if mode in allowed:
        return AutoresetMode(mode)
    hint = "autoreset_mode=AutoresetMode.SAME_STEP: otherwise one ignored action per episode would be trained on"
    if mode is None:
        raise EnvironmentUnsupportedError(
            f"{name} does not state when it resets",
            hint=f'a vector environment that resets in the same step has metadata["autoreset_mode"]: {hint}',
        )
    if mode is AutoresetMode.NEXT_STEP:
        hint = f'{hint}; env.vector = "native" leaves the steps that only reset out of the training'
    raise EnvironmentUnsupportedError(
        f"{name} resets in mode {getattr(mode, 'value', mode)}, not in the same step", hint=hint
    )

"""Keeps ``info`` entries that nobody here reads from ending a run, in vector environments built by somebody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from esper_core.errors import EnvironmentContractError

if TYPE_CHECKING:
    import gymnasium as gym

__all__ = ["keep_batching"]

_READ: Final = frozenset({"action_mask", "conditional_action_mask", "causal_mask", "final_obs"})


def keep_batching(env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
    """Let a vector environment batch entries whose kind or length changes.

    Gymnasium batches each entry in an array of the first environment's type and shape, and raises when another one
    does not fit. Such an entry becomes an array of objects here, with the same flags. Its wrappers read all entries as
    before. A mask that does not fit is an error that names it.

    Args:
        env: the innermost vector environment; changed in place.
    """
    batch = env._add_info  # noqa: SLF001  # what Gymnasium's own vector environments call; there is no public hook

    def add(rows: dict[str, Any], info: dict[str, Any], index: int) -> dict[str, Any]:
        for key, value in info.items():
            try:
                rows = batch(rows, {key: value}, index)
            except (TypeError, ValueError, OverflowError, KeyError, AttributeError) as error:
                if key in _READ:
                    raise EnvironmentContractError(
                        f'environment {index}: info["{key}"] does not fit that of the others: {error}',
                        hint="a mask has the same shape and dtype in every environment and step",
                    ) from error
                _add_object(rows, key, value, index, env.num_envs)
        return rows

    env._add_info = add  # type: ignore[method-assign,assignment]  # noqa: SLF001  # as above; called by position


def _add_object(rows: dict[str, Any], key: str, value: Any, index: int, n_envs: int) -> None:
    flags = rows.get(f"_{key}", np.zeros(n_envs, dtype=bool))
    objects = np.full(n_envs, None, dtype=object)
    if key in rows and not isinstance(rows[key], dict):
        for row in np.flatnonzero(flags):
            objects[row] = rows[key][row]
    objects[index] = value
    flags[index] = True
    rows[key], rows[f"_{key}"] = objects, flags

"""Adapts any Gymnasium environment with Discrete or MultiDiscrete actions to the trainer's ``Task``."""

from __future__ import annotations

import importlib
import math
import os
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from esper_core import forks
from esper_core.config.environments import installed_environments, load_environment
from esper_core.envs.masks import CausalMask, CausalTable, MaskReader, load_causal_mask
from esper_core.errors import EnvironmentUnsupportedError, nearest
from esper_core.ppo.heads import HeadSpec
from esper_core.ppo.task import BoolArray, FloatArray, IntArray, Observation, StepResult, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from esper_core.config.schema import EnvConfig

__all__ = ["GymTask", "make_task"]


def make_task(config: EnvConfig, *, seed: int) -> Task:
    """Build the environments that ``[env]`` names.

    Args:
        config: the table ``[env]``.
        seed: environment i of the first episode is seeded with ``seed + i``.
    """
    causal = load_causal_mask(config.causal_mask) if config.causal_mask else None
    with forks.Place(f"environment {config.id}"):
        env = _vector_env(config, seed)
    return GymTask(env, name=config.id, seed=seed, causal_mask=causal)


def _vector_env(config: EnvConfig, seed: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    plugin = load_environment(config.id)
    if plugin is not None:
        try:
            return plugin.make(num_envs=config.n_envs, seed=seed, **config.kwargs)
        except TypeError as error:
            raise EnvironmentUnsupportedError(f"{config.id}: {error}", hint="check [env.kwargs]") from error
    try:
        module, _, registered = config.id.rpartition(":")
        if module:
            importlib.import_module(module)  # registers the module's ids; gymnasium.spec does not import it
        spec = gym.spec(registered)
    except ImportError as error:
        raise EnvironmentUnsupportedError(f'env.id "{config.id}": {error}', hint="is its package installed?") from error
    except gym.error.Error as error:
        close = nearest(config.id, [*gym.registry, *installed_environments()])
        raise EnvironmentUnsupportedError(
            f'no environment "{config.id}"{close}',
            hint="an installed environment plugin, a registered Gymnasium id, or package.module:EnvId",
        ) from error
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    try:
        # A spec may have only a vectorised form; all other environments are stepped one after another in this process.
        if spec.entry_point is None:
            return gym.make_vec(spec, num_envs=config.n_envs, vectorization_mode="vector_entry_point", **config.kwargs)
        return gym.make_vec(
            spec, num_envs=config.n_envs, vectorization_mode="sync", vector_kwargs=same_step, **config.kwargs
        )
    except gym.error.DependencyNotInstalled as error:
        raise EnvironmentUnsupportedError(f"{config.id} needs a package: {error}") from error
    except TypeError as error:
        raise EnvironmentUnsupportedError(f"{config.id}: {error}", hint="check [env.kwargs]") from error


class GymTask:
    """A Gymnasium vector environment as a :class:`~esper_core.ppo.task.Task`.

    The environment may carry, as attributes of itself or of its sub-environments, ``head_names`` (a sequence of
    names), ``conditioning_head`` (the name of the head sampled first) and ``causal_table`` (bool, choices of the
    conditioning head by heads). The ``causal_mask`` given here takes precedence over ``info["causal_mask"]``, and that
    over the table.

    Args:
        env: a vector environment with autoreset mode SAME_STEP.
        name: the environment's id.
        seed: the seed of the first reset.
        causal_mask: maps actions to the heads that have an effect.
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        *,
        name: str,
        seed: int = 0,
        causal_mask: CausalMask | None = None,
    ) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise EnvironmentUnsupportedError(
                f"{name} resets in mode {getattr(mode, 'value', mode)}, not in the same step",
                hint="autoreset_mode=SAME_STEP: otherwise one ignored action per episode would be trained on",
            )
        self._env = env
        self._name = name
        self._place = forks.Place(f"environment {name}")
        self._seed: int | None = seed
        self._heads, self._discrete = _heads(env.single_action_space, name, _attribute(env, "head_names"))
        self._starts = _starts(env.single_action_space)
        self._observations = env.single_observation_space
        self._size = _observation_size(self._observations, name)
        self._conditioning: str | None = _attribute(env, "conditioning_head")
        names = [head.name for head in self._heads]
        if self._conditioning is not None and self._conditioning not in names:
            raise EnvironmentUnsupportedError(
                f'{name}: conditioning_head "{self._conditioning}" is no head', hint=f"heads: {', '.join(names)}"
            )
        column = names.index(self._conditioning) if self._conditioning is not None else None
        self._masks = MaskReader(name, self._heads, env.num_envs, column)
        table = _attribute(env, "causal_table")
        self._causal = causal_mask
        self._table = CausalTable(table, column) if table is not None and column is not None else None

    @property
    def name(self) -> str:
        """The environment's id."""
        return self._name

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """The heads: one for ``Discrete``, one per column for ``MultiDiscrete``."""
        return self._heads

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Length of a flattened observation."""
        return (self._size,)

    @property
    def n_envs(self) -> int:
        """The number of environments stepped together."""
        return int(self._env.num_envs)

    @property
    def conditioning_head(self) -> str | None:
        """The head sampled first, or None."""
        return self._conditioning

    @property
    def env(self) -> gym.vector.VectorEnv[Any, Any, Any]:
        """The environment itself."""
        return self._env

    def reset(self, seed: int | None = None) -> Observation:
        """Reset all environments: each begins a new episode."""
        values, info = self._asked(self._env.reset, seed=self._seed if seed is None else seed)
        self._seed = None
        return self._observation(values, info)

    def step(self, actions: IntArray) -> StepResult:
        """Take one action (n, heads) in every environment."""
        chosen = actions + self._starts
        taken = chosen[:, 0] if self._discrete else chosen
        values, reward, terminated, truncated, info = self._asked(self._env.step, taken)
        final = None
        if truncated.any():
            final = self._final(info, truncated)
        return StepResult(
            observation=self._observation(values, info),
            reward=np.asarray(reward, dtype=np.float64),
            terminated=np.asarray(terminated, dtype=bool),
            truncated=np.asarray(truncated, dtype=bool),
            final_values=final,
            causal_mask=self._causal_mask(actions, info, terminated | truncated),
        )

    def close(self) -> None:
        """Close the environments."""
        self._asked(self._env.close)

    def _asked(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call code of the user's. A child that it forked ends here when it comes back: this is the trainer's code."""
        process = forks.process()
        try:
            answer = method(*args, **kwargs)
        except BaseException as error:
            if os.getpid() != process:
                self._place.end(error)
            raise
        if os.getpid() != process:
            self._place.end()
        return answer

    def _observation(self, values: Any, info: Mapping[str, Any]) -> Observation:
        return Observation(
            values=self._flatten(values),
            action_mask=self._masks.action_mask(info),
            conditional_mask=self._masks.conditional_mask(info),
        )

    def _causal_mask(self, actions: IntArray, info: Mapping[str, Any], done: BoolArray) -> BoolArray | None:
        if self._causal is not None:
            mask = np.asarray(self._asked(self._causal, actions), dtype=bool)
            if mask.shape != actions.shape:
                raise EnvironmentUnsupportedError(
                    f"{self._name}: the causal mask has shape {mask.shape}, expected {actions.shape}"
                )
            return mask
        found = self._masks.causal_mask(info, done)
        return found if found is not None or self._table is None else self._table(actions)

    def _flatten(self, values: Any) -> FloatArray:
        """Observations of all environments as float32 (n, inputs); discrete ones one-hot, bytes scaled to 0..1."""
        batch = np.asarray(values)
        if isinstance(self._observations, gym.spaces.Discrete):
            return _one_hot(batch.reshape(-1, 1) - self._observations.start, [self._size])
        if isinstance(self._observations, gym.spaces.MultiDiscrete):
            sizes = self._observations.nvec.flatten()
            return _one_hot(batch.reshape(len(batch), -1) - self._observations.start.flatten(), sizes.tolist())
        rows = batch.reshape(len(batch), -1)
        # Bytes are pixels or registers: scaled to 0..1, they suit the network's first layer.
        return rows / np.float32(255) if rows.dtype == np.uint8 else rows.astype(np.float32, copy=False)

    def _final(self, info: Mapping[str, Any], truncated: BoolArray) -> FloatArray:
        """The last observation of each truncated episode; other rows are 0."""
        found = info.get("final_obs")
        if found is None:
            raise EnvironmentUnsupportedError(
                f'{self._name} truncates without info["final_obs"]', hint="its value cannot be bootstrapped"
            )
        rows = np.zeros((self.n_envs, self._size), dtype=np.float32)
        for index in np.flatnonzero(truncated):
            rows[index] = self._flatten(np.asarray(found[index])[None])[0]
        return rows


def _attribute(env: gym.vector.VectorEnv[Any, Any, Any], name: str) -> Any:
    """An attribute of the vector environment, or of its first sub-environment inside all wrappers."""
    value = getattr(env, name, None)
    if value is None and getattr(env, "envs", None):
        value = getattr(env.envs[0].unwrapped, name, None)  # type: ignore[attr-defined]  # only some kinds have envs
    return value


def _heads(space: gym.Space[Any], name: str, names: Any) -> tuple[tuple[HeadSpec, ...], bool]:
    """The heads of an action space, and whether an action is a single number."""
    if isinstance(space, gym.spaces.Discrete):
        return (HeadSpec(names[0] if names else "action", int(space.n)),), True
    if isinstance(space, gym.spaces.MultiDiscrete) and space.nvec.ndim == 1:
        sizes = [int(size) for size in space.nvec]
        labels = list(names) if names else [f"head_{index}" for index in range(len(sizes))]
        if len(labels) != len(sizes):
            raise EnvironmentUnsupportedError(f"{name} names {len(labels)} heads, but {space} has {len(sizes)}")
        return tuple(HeadSpec(label, size) for label, size in zip(labels, sizes, strict=True)), False
    raise EnvironmentUnsupportedError(
        f"{name} has action space {space}", hint="Discrete and one-dimensional MultiDiscrete can be trained"
    )


def _starts(space: gym.Space[Any]) -> IntArray:
    """The start value of each column, which is added to choices counted from 0."""
    return np.atleast_1d(np.asarray(getattr(space, "start", 0), dtype=np.int64))


def _observation_size(space: gym.Space[Any], name: str) -> int:
    if isinstance(space, gym.spaces.Box):
        return math.prod(space.shape)
    if isinstance(space, gym.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gym.spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, gym.spaces.MultiBinary):
        return math.prod(space.shape)
    raise EnvironmentUnsupportedError(
        f"{name} has observation space {space}",
        hint="Box, Discrete, MultiDiscrete and MultiBinary can be read; wrap others with FlattenObservation",
    )


def _one_hot(choices: IntArray, sizes: list[int]) -> FloatArray:
    """One-hot rows of several columns beside each other: float32 (n, sum of sizes)."""
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
    rows = np.zeros((len(choices), sum(sizes)), dtype=np.float32)
    np.put_along_axis(rows, choices + starts, 1.0, axis=1)
    return rows

"""Adapts any Gymnasium environment to the trainer's ``Task``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from esper_core import forks
from esper_core.envs.action_spaces import action_space
from esper_core.envs.attributes import vector_attribute
from esper_core.envs.autoreset import autoreset_of
from esper_core.envs.build import vector_env
from esper_core.envs.calls import Calls
from esper_core.envs.contract import flags_of, info_of, mask_of, reset_of, rewards_of, step_of
from esper_core.envs.masks import CausalMask, CausalTable, MaskReader, load_causal_mask
from esper_core.envs.observations import ObservationReader
from esper_core.envs.seeds import environment_seeds
from esper_core.envs.space_text import space_text
from esper_core.errors import EnvironmentContractError, EnvironmentUnsupportedError
from esper_core.ppo.task import BoolArray, FloatArray, IntArray, Observation, StepResult, Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import gymnasium as gym

    from esper_core.config.schema import EnvConfig
    from esper_core.ppo.actions import ActionForm
    from esper_core.ppo.heads import HeadSpec
    from esper_core.ppo.preprocessing import ObservationForm

__all__ = ["GymTask", "make_task"]

_SAME: Final = (AutoresetMode.SAME_STEP,)


def make_task(config: EnvConfig, *, seed: int) -> Task:
    """Build the environments that ``[env]`` names.

    Args:
        config: the table ``[env]``.
        seed: of the environments, see :func:`~esper_core.envs.seeds.environment_seeds`.
    """
    causal = load_causal_mask(config.causal_mask) if config.causal_mask else None
    with forks.Place(f"environment {config.id}"):
        env = vector_env(config, seed)
    return GymTask(
        env,
        name=config.id,
        seed=seed,
        causal_mask=causal,
        read_masks=config.masks != "off",
        seeded=config.seed_episodes,
        next_step=config.vector == "native",
    )


class GymTask:
    """A Gymnasium vector environment as a :class:`~esper_core.ppo.task.Task`.

    The environment may carry, as attributes of itself, of its sub-environments or of any wrapper of either,
    ``head_names`` (a sequence of names), ``conditioning_head`` (the name of the head sampled first) and
    ``causal_table`` (bool, choices of the conditioning head by heads). The ``causal_mask`` given here takes precedence
    over ``info["causal_mask"]``, and that over the table.

    What user code receives is a copy; what it returns is checked here, and copied where it is kept.

    Args:
        env: a vector environment with autoreset mode SAME_STEP, or NEXT_STEP where that is allowed.
        name: the environment's id.
        seed: the seed of the first reset.
        causal_mask: maps actions to the heads that have an effect.
        read_masks: whether masks are read from ``info``.
        seeded: whether each environment stands in a :class:`~esper_core.envs.episodes.SeededEpisodes`.
        next_step: allow NEXT_STEP: the step after an episode's last one begins the next episode and plays nothing.

    Raises:
        EnvironmentUnsupportedError: its spaces, its autoreset mode or its attributes cannot be used.
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        *,
        name: str,
        seed: int = 0,
        causal_mask: CausalMask | None = None,
        read_masks: bool = True,
        seeded: bool = False,
        next_step: bool = False,
    ) -> None:
        mode = autoreset_of(env, name, (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP) if next_step else _SAME)
        self._next_step = mode is AutoresetMode.NEXT_STEP
        self._ended: BoolArray | None = None
        """Of NEXT_STEP: where the next step only begins an episode; None for nowhere."""
        self._env = env
        self._name = name
        self._calls = Calls(env, name)
        self._seed: int | None = seed
        self._back: Observation | None = None
        self._n_envs = int(env.num_envs)
        space = action_space(env.single_action_space, name, vector_attribute(env, "head_names", name))
        self._heads, self._form = space.heads, space.form
        self._reader = ObservationReader(env.single_observation_space, self._n_envs, name)
        self._conditioning: str | None = vector_attribute(env, "conditioning_head", name)
        names = [head.name for head in self._heads]
        if self._conditioning is not None and self._conditioning not in names:
            raise EnvironmentUnsupportedError(
                f'{name}: conditioning_head "{self._conditioning}" is no head', hint=f"heads: {', '.join(names)}"
            )
        column = names.index(self._conditioning) if self._conditioning is not None else None
        if column is not None and not self._heads[column].size:
            raise EnvironmentUnsupportedError(
                f'{name}: conditioning_head "{self._conditioning}" has no choices',
                hint="each choice of a conditioning head selects a row of the mask: a continuous head has none",
            )
        self._masks = MaskReader(name, self._heads, self._n_envs, column)
        self._read_masks = read_masks
        self._seeded = seeded
        self._causal = causal_mask
        self._table: CausalTable | None = None
        table = vector_attribute(env, "causal_table", name)
        if table is not None:
            if column is None:
                raise EnvironmentUnsupportedError(
                    f"{name} has a causal_table, but no conditioning_head",
                    hint="its rows are the choices of one head: name that head conditioning_head",
                )
            self._table = CausalTable(table, column, self._heads, name)

    @property
    def name(self) -> str:
        """The environment's id."""
        return self._name

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """The heads, one a column of the action; see :mod:`esper_core.envs.action_spaces`."""
        return self._heads

    @property
    def action_form(self) -> ActionForm:
        """How the columns make an action of the environment's space."""
        return self._form

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """Length of a row that an observation becomes."""
        return (self._reader.form.size,)

    @property
    def observation_form(self) -> ObservationForm:
        """What an observation consists of, and what becomes of it."""
        return self._reader.form

    def read_as(self, form: ObservationForm | None) -> None:
        """Read observations as a checkpoint's agent did; None is one of 0.1, which divided every byte by 255."""
        older = ObservationReader(self._env.single_observation_space, self._n_envs, self._name, bytes_to=255.0)
        if form is None or form == older.form:
            self._reader = older

    @property
    def n_envs(self) -> int:
        """The number of environments stepped together."""
        return self._n_envs

    @property
    def conditioning_head(self) -> str | None:
        """The head sampled first, or None."""
        return self._conditioning

    @property
    def causal_table(self) -> BoolArray | None:
        """The heads that each choice of the conditioning head gives an effect: bool (choices, heads); None without."""
        return self._table.table if self._table is not None else None

    @property
    def spaces(self) -> tuple[str, str]:
        """Observation and action space of one environment, as text."""
        return space_text(self._env.single_observation_space), space_text(self._env.single_action_space)

    @property
    def env(self) -> gym.vector.VectorEnv[Any, Any, Any]:
        """The environment itself."""
        return self._env

    def reset(self, seed: int | None = None) -> Observation:
        """Reset all environments: each begins a new episode, but for the first reset after :meth:`go_back`."""
        if self._back is not None:
            back, self._back = self._back, None
            return back
        first, self._seed, self._ended = self._seed, None, None
        result = self._calls("reset()", self._env.reset, seed=self._seeds(first if seed is None else seed))
        values, info = reset_of(result, self._name)
        return self._observation(values, self._read(info))

    @property
    def resumable(self) -> bool:
        """Whether every environment seeds its episodes, so that it can be brought back (``env.seed_episodes``)."""
        return self._seeded

    def mark(self) -> None:
        """Remember where every environment is."""
        self._calls("mark()", self._singles().call, "mark")

    def marked(self) -> list[dict[str, Any]]:
        """Where every environment was at the last mark, see :class:`~esper_core.envs.episodes.SeededEpisodes`."""
        return list(self._calls("marked()", self._singles().call, "marked"))

    def go_back(self, places: Sequence[Mapping[str, Any]]) -> list[str]:
        """Bring every environment back by playing its episode up to where it was; the next reset begins nothing new.

        Returns:
            Of each, why it begins the next episode instead; empty where it is back.
        """
        self._calls("resume_at", self._singles().set_attr, "resume_at", list(places))
        self._back = self.reset()
        return list(self._calls("lost()", self._singles().call, "lost"))

    def step(self, actions: IntArray | FloatArray) -> StepResult:
        """Take one action (n, heads) in every environment: choices counted from 0, values within their bounds.

        Raises:
            EnvironmentContractError: it returned what it may not, or called ``exit()``.
        """
        result = self._calls("step()", self._env.step, self._form.batch(actions))
        values, reward, terminated, truncated, info = step_of(result, self._name)
        info = self._read(info_of(info, self._name))
        count, name = self._n_envs, self._name
        terminated = flags_of("terminated", terminated, count, name)
        truncated = flags_of("truncated", truncated, count, name)
        reward, resets = rewards_of(reward, count, name), self._ended
        done = terminated | truncated
        if self._next_step:
            if resets is not None:  # what else a row says whose action was ignored is of no episode
                reward = np.where(resets, 0.0, reward)
                terminated, truncated, done = terminated & ~resets, truncated & ~resets, done & ~resets
            self._ended = done if done.any() else None
        return StepResult(
            observation=self._observation(values, info),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final_values=self._final(info, truncated) if not self._next_step and truncated.any() else None,
            causal_mask=self._causal_mask(actions, info, done),
            resets=resets,
        )

    def close(self) -> None:
        """Close the environments."""
        self._calls.close()

    # --- what comes in ------------------------------------------------------------------------

    def _singles(self) -> Any:
        """The vector environment of single ones, which passes calls on to each."""
        return self._env.unwrapped

    def _seeds(self, seed: int | None) -> int | list[int] | None:
        """The seed of each environment; a vector environment of another kind gets the number and makes its own."""
        if seed is None or not isinstance(self._env.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            return seed
        return environment_seeds(seed, self._n_envs)

    def _read(self, info: dict[str, Any]) -> dict[str, Any]:
        """What is read of an info: without masks only the last observations of episodes."""
        return info if self._read_masks else {key: info[key] for key in ("final_obs",) if key in info}

    def _observation(self, values: Any, info: Mapping[str, Any]) -> Observation:
        action, conditional = self._masks.legal(info, self._ended)
        return Observation(values=self._reader.rows(values), action_mask=action, conditional_mask=conditional)

    def _causal_mask(
        self, actions: IntArray | FloatArray, info: Mapping[str, Any], done: BoolArray
    ) -> BoolArray | None:
        if self._causal is None:
            return self._masks.causal(info, done, self._table(actions) if self._table is not None else None)
        # A copy: a function that writes into its argument harms nothing.
        mask = self._calls("causal_mask()", self._causal, actions.copy())
        axes = "environments first, then one value a head"
        return mask_of("the causal mask", mask, actions.shape, axes, self._name)

    def _final(self, info: Mapping[str, Any], truncated: BoolArray) -> FloatArray:
        """The last observation of each truncated episode; other rows are 0."""
        found = info.get("final_obs")
        rows = np.zeros((self._n_envs, self._reader.form.size), dtype=np.float32)
        for index in np.flatnonzero(truncated):
            value = None if found is None else found[index]
            if value is None:
                raise EnvironmentContractError(
                    f'{self._name}, environment {index}: truncates without info["final_obs"]',
                    hint="without the last observation the value of what was cut off cannot be bootstrapped",
                )
            rows[index] = self._reader.row(value, f'{self._name}, environment {index}, "final_obs"')
        return rows

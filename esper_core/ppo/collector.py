"""Collector: plays one rollout with the current policy and packs it for the update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from esper_core.ppo.finite import finite, first_fault
from esper_core.ppo.gae import generalised_advantages
from esper_core.ppo.reducer import Identity, seed_of_rank
from esper_core.ppo.rollout import Batch, active_decisions
from esper_core.ppo.sampling import Noise

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from esper_core.ppo.acting import Acted
    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.task import BoolArray, Observation, StepResult, Task

__all__ = ["Collection", "Collector", "Fault"]

NOISE_VALUES: Final = 1 << 20
"""Most random numbers held at once: 4 MiB."""


@dataclass(frozen=True, slots=True)
class Fault:
    """NaN or Inf that an environment returned."""

    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Collection:
    """What came of one rollout.

    Attributes:
        batch: the samples; None when it was cut short, and with several ranks.
        steps: environment steps taken.
        fault: the first non-finite value met, with the count of all.
        interrupted: True when it was asked to stop.
        raw: float32 (N, inputs), see :class:`~esper_core.ppo.rollout.Rollout`.
        pack: makes the samples, of several ranks, in calls that all of them take part in: once each is known to have
            played its rollout to the end. None with one rank, and when it was cut short.
    """

    batch: Batch | None
    steps: int
    fault: Fault | None = None
    interrupted: bool = False
    raw: Tensor | None = None
    pack: Callable[[], Batch] | None = None

    @property
    def whole(self) -> bool:
        """Whether it was played to its end."""
        return self.batch is not None or self.pack is not None


class Collector:
    """Steps a task with an agent. Its buffers are allocated once and overwritten by the next rollout.

    Args:
        agent: acts.
        task: is acted on.
        keep_going: go on after a non-finite value (it is shown to the policy as 0) instead of ending the rollout.
    """

    def __init__(self, agent: PPOAgent, task: Task, *, keep_going: bool = False) -> None:
        self._agent = agent
        self._task = task
        self._keep_going = keep_going
        self._own_seed = seed_of_rank(agent.seed, agent.reducer.rank)
        steps, n_envs, heads = agent.config.rollout_steps, task.n_envs, agent.layout.count
        self._steps, self._n_envs, self._inputs = steps, n_envs, math.prod(task.obs_shape)
        self._raw = np.zeros((steps + 1, n_envs, self._inputs), dtype=np.float32)
        # What the policy reads; the same numbers where nothing is normalised.
        self._observations = self._raw if agent.normaliser is None else np.zeros_like(self._raw)
        self._scale_rewards = agent.reward_normaliser
        self._settling = False
        self._actions = np.zeros((steps, n_envs, heads), dtype=np.float32 if len(agent.layout.dense) else np.int64)
        self._log_prob = np.zeros((steps, n_envs, heads), dtype=np.float32)
        self._causal = np.ones((steps, n_envs, heads), dtype=bool)
        self._values = np.zeros((steps + 1, n_envs), dtype=np.float32)
        self._legal: BoolArray | None = None
        self._rewards = np.zeros((steps, n_envs))
        self._terminated = np.zeros((steps, n_envs), dtype=bool)
        self._truncated = np.zeros((steps, n_envs), dtype=bool)
        self._played = np.ones((steps, n_envs), dtype=bool)
        # One draw for many steps is cheap; for all of a long rollout with wide heads it would be large.
        self._block = min(steps, max(1, NOISE_VALUES // (n_envs * agent.layout.draws)))
        self._noise = Noise()
        self._current: Observation | None = None
        self._fault: Fault | None = None

    def collect(self, on_step: Callable[[StepResult], None], should_stop: Callable[[], bool]) -> Collection:
        """Play ``rollout_steps`` steps in every environment.

        Args:
            on_step: called after each step of all environments.
            should_stop: read before each step.
        """
        finals: list[tuple[int, NDArray[np.bool_], NDArray[Any]]] = []
        self._clear()
        actor = self._agent.actor(self._n_envs)
        for step in range(self._steps):
            if should_stop():
                return Collection(None, self._taken(step), interrupted=True)
            observation = self._observation()
            self._show(step, observation)
            if self._broken():
                return Collection(None, self._taken(step), fault=self._fault)
            acted = actor(
                self._observations[step], observation.action_mask, observation.conditional_mask, self._noise_of(step)
            )
            self._actions[step] = acted.actions
            result = self._task.step(self._agent.bounded(self._actions[step]))
            self._store(step, acted, result)
            on_step(result)
            if result.final_values is not None:
                cut = result.truncated & ~result.terminated
                if cut.any():
                    finals.append((step, cut, self._last(result.final_values, cut)))
            if self._broken():
                return Collection(None, self._taken(step + 1), fault=self._fault)
        self._show(self._steps, self._observation())
        taken = self._taken(self._steps)
        if self._fault is not None:
            return Collection(None, taken, fault=self._fault)
        raw = None if self._agent.normaliser is None or self._settling else _rows(self._raw[:-1])
        kept = None
        if taken < self._played.size:
            kept = torch.from_numpy(np.flatnonzero(self._played))
            raw = None if raw is None else raw[kept]
        pack = partial(self._pack, finals, kept)
        if self._agent.reducer.world_size > 1:
            return Collection(None, taken, raw=raw, pack=pack)
        return Collection(pack(), taken, raw=raw)

    def _taken(self, steps: int) -> int:
        """Environment steps in the first steps of the rollout; one that only began an episode is none."""
        return int(np.count_nonzero(self._played[:steps]))

    def agree(self) -> None:
        """Every rank has played: what the first rollout taught each about observations is of all from here on."""
        if self._settling and self._agent.normaliser is not None:
            self._agent.normaliser.join(self._agent.reducer)

    def _clear(self) -> None:
        self._fault, self._legal = None, None
        self._causal.fill(True)
        self._played.fill(True)
        # Until there are statistics at all, each step of the first rollout moves them: later ones wait for the update.
        normaliser = self._agent.normaliser
        self._settling = normaliser is not None and not normaliser.moved

    def _broken(self) -> bool:
        return self._fault is not None and not self._keep_going

    def _observation(self) -> Observation:
        if self._current is None:
            self._current = self._task.reset(_first_seed(self._own_seed, self._agent.updates))
        return self._current

    def _show(self, step: int, observation: Observation) -> None:
        """Copy an observation in; note what is not finite."""
        shown = self._raw[step]
        shown[...] = observation.values
        if not finite(shown):
            self._note("observation", shown)
            np.nan_to_num(shown, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        if self._agent.normaliser is None:
            return
        rows = torch.from_numpy(shown)
        if self._settling and step < self._steps:
            self._agent.normaliser.see(rows, Identity())  # a rank that was cut short would leave the others waiting
        self._observations[step] = self._agent.seen(rows).numpy()

    def _last(self, values: NDArray[Any], cut: NDArray[np.bool_]) -> NDArray[Any]:
        """A copy of the last observations of episodes that were cut; note what is not finite."""
        last = np.where(cut[:, None], values.reshape(self._n_envs, -1), 0.0)
        if not np.isfinite(last).all():
            self._note("last observation", last)
            last = np.nan_to_num(last, nan=0.0, posinf=0.0, neginf=0.0)
        return last

    def _noise_of(self, step: int) -> Noise:
        """What a step's actions are drawn with."""
        within = step % self._block
        if within == 0:
            self._noise = self._agent.noise(min(self._block, self._steps - step), self._n_envs)
        return self._noise[within]

    def _store(self, step: int, acted: Acted, result: StepResult) -> None:
        self._log_prob[step] = acted.log_prob
        self._values[step] = acted.values
        if acted.legal is not None:
            if self._legal is None:
                self._legal = np.tile(self._agent.layout.valid.numpy(), (self._steps, self._n_envs, 1, 1))
            self._legal[step] = acted.legal
        if result.causal_mask is not None:
            self._causal[step] = result.causal_mask
        if result.resets is not None:
            self._played[step] = ~result.resets
        self._rewards[step] = result.reward
        self._terminated[step] = result.terminated
        self._truncated[step] = result.truncated
        self._current = result.observation
        if not finite(result.reward):
            self._note("reward", result.reward)

    def _note(self, what: str, values: NDArray[Any]) -> None:
        """Count non-finite values; the first one gives the reason."""
        reason, count = first_fault(what, values)
        if self._fault is None:
            self._fault = Fault(reason, count)
        else:
            self._fault = Fault(self._fault.reason, self._fault.count + count)

    def _pack(self, finals: list[tuple[int, NDArray[np.bool_], NDArray[Any]]], kept: Tensor | None) -> Batch:
        """Advantages, and everything flattened to one row a decision; of those only the kept, when some are not."""
        agent = self._agent
        self._values[-1] = agent.values_of(torch.from_numpy(self._observations[-1])).numpy()
        next_values = self._values[1:].copy()
        if finals:
            last = np.concatenate([final[rows].reshape(-1, self._inputs) for _, rows, final in finals])
            seen = agent.seen(torch.from_numpy(last.astype(np.float32)))
            where = np.zeros_like(self._truncated)
            for step, rows, _ in finals:
                where[step] = rows
            next_values[where] = agent.values_of(seen).numpy()
        values = self._values[:-1]
        rewards = self._rewards
        if self._scale_rewards is not None:
            done = self._terminated | self._truncated
            rewards = self._scale_rewards(rewards, done, agent.reducer, self._played)
        advantages = generalised_advantages(
            rewards,
            values,
            next_values,
            self._terminated,
            self._truncated,
            gamma=agent.config.gamma,
            lam=agent.config.gae_lambda,
        )
        legal = None if self._legal is None else _rows(self._legal)
        # A return beyond float32 becomes infinite, which the update finds and tells.
        with np.errstate(over="ignore"):
            single = advantages.astype(np.float32), (advantages + values).astype(np.float32)
        active, unforced = active_decisions(agent.layout, _rows(self._causal), legal)
        batch = Batch(
            observations=_rows(self._observations[:-1]),
            actions=_rows(self._actions),
            log_prob=_rows(self._log_prob),
            legal=legal,
            active=active,
            unforced=unforced,
            advantages=_rows(single[0]),
            returns=_rows(single[1]),
            values=_rows(values),
        )
        return batch if kept is None else batch.take(kept)


def _rows(played: NDArray[Any]) -> Tensor:
    """What was played (steps, n_envs, ...) as rows of samples, in the same memory."""
    return torch.from_numpy(played).flatten(0, 1)


def _first_seed(seed: int, updates: int) -> int:
    """The seed of the first reset: an attempt that resumes begins other episodes than the first one did."""
    return int(np.random.SeedSequence([seed, updates]).generate_state(1)[0]) if updates else seed

"""PPOAgent: acts, and learns with the clipped surrogate of Schulman et al. 2017 (arXiv:1707.06347)."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch

from esper_core.config.schema import PPOConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.events import Divergence
from esper_core.ppo.acting_agent import ActingAgent
from esper_core.ppo.adam import FlatAdam
from esper_core.ppo.batch_faults import fault_of
from esper_core.ppo.checkpoint_file import load_checkpoint
from esper_core.ppo.checkpoint_fit import restore
from esper_core.ppo.compiled import CompiledSteps
from esper_core.ppo.learning import EagerStep, MinibatchStep, learn
from esper_core.ppo.measure import distribution_of, measure, prepare
from esper_core.ppo.metrics import metrics_of
from esper_core.ppo.normalisation import RewardNormaliser
from esper_core.ppo.reducer import Identity, Reducer, seed_of_rank
from esper_core.ppo.schedules import adapted_rate, share_left
from esper_core.runs.arguments import path_text
from esper_core.runs.search import find_run
from esper_core.updates import EpisodeSummary, UpdateRecorder, UpdateSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from torch import Tensor

    from esper_core.events import PPOUpdatePayload
    from esper_core.ppo.actions import ActionForm
    from esper_core.ppo.checkpoint import Checkpoint
    from esper_core.ppo.heads import HeadSpec
    from esper_core.ppo.preprocessing import ObservationForm
    from esper_core.ppo.rollout import Batch, Rollout
    from esper_core.updates import FinalPass

__all__ = ["PPOAgent"]

_log = logging.getLogger("esper.ppo")


class PPOAgent(ActingAgent):
    """A policy with any number of heads of any kind, action masks and causal masks.

    Not thread-safe. All randomness comes from its own generators: Python's, NumPy's and torch's global ones are
    never touched, with telemetry on or off.

    Args:
        heads: the action's columns.
        obs_shape: of one observation; flattened before the network.
        config: the ``[ppo]`` table.
        seed: of weights, sampling and minibatch order.
        emitter: told of every update; the default hears nothing.
        conditioning_head: the head sampled first when a conditional mask is given.
        action_form: how the heads' columns make the environment's action; None for the columns themselves.
        reducer: joins the sums of several ranks.
        form: what an observation consists of and how it becomes a row of ``obs_shape``: the task's
            ``observation_form``; None reads numbers of ``obs_shape`` as they are.

    Raises:
        EnvironmentUnsupportedError: the heads do not make a policy, or ``ppo.squash`` has no bounds to reach.
    """

    def __init__(
        self,
        heads: Sequence[HeadSpec],
        obs_shape: Sequence[int],
        config: PPOConfig | None = None,
        *,
        seed: int = 0,
        emitter: TelemetryEmitter | None = None,
        conditioning_head: str | None = None,
        action_form: ActionForm | None = None,
        reducer: Reducer | None = None,
        form: ObservationForm | None = None,
    ) -> None:
        self.reducer: Reducer = reducer if reducer is not None else Identity()
        # Of one weight vector all ranks learn; what they draw for it is their own.
        weights = int(np.random.SeedSequence(seed).generate_state(1)[0])
        own = np.random.SeedSequence(seed_of_rank(seed, self.reducer.rank))
        _, sampling, order = (int(word) for word in own.generate_state(3))
        super().__init__(
            heads,
            obs_shape,
            config if config is not None else PPOConfig(),
            weights=weights,
            sampling=sampling,
            conditioning_head=conditioning_head,
            action_form=action_form,
            form=form,
        )
        self.seed = seed
        self.emitter = emitter if emitter is not None else TelemetryEmitter()
        self.order_generator = torch.Generator().manual_seed(order)
        self.reward_normaliser = RewardNormaliser(self.config.gamma) if self.config.normalise_rewards else None
        self._parameters = self.policy.learned()
        self.optimizer = FlatAdam(self._parameters, self.config.learning_rate)
        self.on_notice: Callable[[str], object] = _log.warning
        """Called with lines for the user, about ``ppo.compile``; by default they go to the log ``esper.ppo``."""
        self._compiled = (
            CompiledSteps(self.policy, self.optimizer, self.config, reducer=self.reducer)
            if self.config.compile
            else None
        )
        self.clip_range = self.config.clip_range
        """In force: ``ppo.clip_range``, or what its schedule leaves of it."""
        self.entropy_coef = self.config.entropy_coef
        """In force, as :attr:`clip_range`."""
        self.updates = 0
        """Updates begun; also the id of the last one."""
        self.last: PPOUpdatePayload | None = None
        """The last update's payload as it was emitted."""

    @property
    def finite(self) -> bool:
        """Whether every weight is finite."""
        return bool(torch.nn.utils.parameters_to_vector(self._parameters).isfinite().all())

    @classmethod
    def load(cls, run: str | PathLike[str], *, base: str | PathLike[str] = "runs", device: str = "cpu") -> PPOAgent:
        """The agent of a run's last checkpoint, ready to act or to go on learning.

        Args:
            run: a checkpoint file, a run or its directory, its id, a unique part of one, or ``latest``.
            base: the folder of runs.
            device: torch device to load it on.

        Raises:
            UsageError: there is no such run or checkpoint, or an argument is neither text nor a path.
        """
        path = Path(path_text("run", run))
        if path.suffix != ".pt" and not path.is_file():
            path = find_run(str(path), Path(path_text("base", base, "the folder that holds the runs"))).checkpoint
        return cls.of(load_checkpoint(path), device=device)

    @classmethod
    def of(cls, checkpoint: Checkpoint, *, device: str = "cpu") -> PPOAgent:
        """The agent of a checkpoint, see :meth:`load`."""
        agent = cls(
            checkpoint.heads,
            checkpoint.obs_shape,
            msgspec.structs.replace(checkpoint.config, device=device),
            seed=checkpoint.seed,
            conditioning_head=checkpoint.conditioning_head,
            action_form=checkpoint.action_form,
            form=checkpoint.observation_form,
        )
        restore(agent, checkpoint)
        return agent

    @property
    def learning_rate(self) -> float:
        """In force; :meth:`anneal` and, with ``kl_adaptive``, every update move it."""
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def anneal(self, fraction_done: float) -> None:
        """Set what has a schedule for the share (0..1) of the planned run that is done."""
        config = self.config
        if config.learning_rate_schedule != "kl_adaptive":
            self.learning_rate = config.learning_rate * share_left(config.learning_rate_schedule, fraction_done)
        self.clip_range = config.clip_range * share_left(config.clip_range_schedule, fraction_done)
        self.entropy_coef = config.entropy_coef * share_left(config.entropy_coef_schedule, fraction_done)

    @torch.enable_grad()  # whatever an environment has set for the whole thread
    def update(self, rollout: Rollout, *, should_stop: Callable[[], bool] | None = None) -> dict[str, float]:
        """Learn from one rollout, and tell the emitter.

        Whatever happens is emitted: a completed update, one that the KL stopped, one that was interrupted by
        ``should_stop``, and one that could not begin.

        Args:
            rollout: experience of the current policy.
            should_stop: read before each optimizer step; True ends the update there.

        Returns:
            The numbers measured, ``approx_kl`` among them (the payload's ``kl_divergence``).
        """
        batch = rollout.batch.to(self.device)
        samples = self._samples(batch)
        recorder = self._begin(samples)
        fault, final = fault_of(batch, samples, self._parameters, self.reducer), None
        if fault is not None:
            recorder.skip(fault[0], non_finite=fault[1])
        else:
            batch, shown = prepare(batch, normalise=self.config.normalise_advantage, reducer=self.reducer)
            recorder.measured(shown)
            old = distribution_of(self.policy, batch) if self.config.kl_estimator == "exact" else None
            parts = self._minibatches(samples)
            learn(
                self._step(batch, parts, should_stop),
                batch,
                epochs=self.config.epochs,
                parts=parts,
                clip_range=self.clip_range,
                order=self.order_generator,
                reducer=self.reducer,
                recorder=recorder,
                should_stop=should_stop,
            )
            final = measure(self.policy, batch, old=old, reducer=self.reducer)
            if rollout.raw is not None and not final.non_finite:
                recorder.diverged(self._move(rollout.raw.to(self.device), batch))
        return self._finish(recorder, final, env_steps=rollout.env_steps, samples=samples, episodes=rollout.episodes)

    def skip_update(
        self, reason: str, *, env_steps: int = 0, episodes: EpisodeSummary | None = None, non_finite: int = 0
    ) -> dict[str, float]:
        """Emit an update that cannot take place, so that no gap is silent."""
        recorder = self._begin(0)
        recorder.skip(reason, non_finite=non_finite)
        return self._finish(recorder, None, env_steps=env_steps, samples=0, episodes=episodes or EpisodeSummary())

    def _begin(self, samples: int) -> UpdateRecorder:
        config = self.config
        self.updates += 1
        settings = UpdateSettings(
            heads=self.layout.names,
            head_kinds=self.layout.kinds,
            target_kl=config.target_kl,
            stop_on=config.stop_on,
            stop_rule=config.stop_rule,
            kl_estimator=config.kl_estimator,
            clip_range=self.clip_range,
            device=str(self.device),
        )
        return UpdateRecorder.begin(
            self.emitter,
            settings,
            update_id=self.updates,
            epochs=config.epochs,
            minibatches=self._minibatches(samples),
        )

    def _step(self, batch: Batch, parts: int, should_stop: Callable[[], bool] | None) -> MinibatchStep:
        """How this update takes its steps; the first compiled one may have to be built."""
        if self._compiled is not None:
            compiled = self._compiled.begin(
                batch,
                parts,
                clip_range=self.clip_range,
                entropy_coef=self.entropy_coef,
                should_stop=should_stop,
                tell=self.on_notice,
            )
            if compiled is not None:
                return compiled
        return EagerStep(
            self.policy,
            self.optimizer,
            self.config,
            clip_range=self.clip_range,
            entropy_coef=self.entropy_coef,
            reducer=self.reducer,
        )

    def _move(self, raw: Tensor, batch: Batch) -> Divergence:
        """Take a rollout's rows into the statistics; return how far that alone moves the policy, exactly."""
        assert self.normaliser is not None  # whoever keeps raw rows has one  # noqa: S101
        before = distribution_of(self.policy, batch)
        self.normaliser.see(raw, self.reducer)
        moved = replace(batch, observations=self.seen(raw))
        kl = measure(self.policy, moved, old=before, reducer=self.reducer).kl
        return Divergence(
            name="normaliser",
            reference="normaliser",
            estimator="exact",
            direction="reference_policy",
            per_decision=kl.weighted,
            per_step=kl.joint,
        )

    def _minibatches(self, samples: int) -> int:
        """Minibatches of one epoch over the samples of all ranks: a rank takes part in each, with what it has."""
        return max(1, math.ceil(samples / (self.config.minibatch_size * self.reducer.world_size)))

    def _samples(self, batch: Batch) -> int:
        """Samples of all ranks."""
        return int(self.reducer.sum(torch.tensor(len(batch))))

    def _finish(
        self,
        recorder: UpdateRecorder,
        final: FinalPass | None,
        *,
        env_steps: int,
        samples: int,
        episodes: EpisodeSummary,
    ) -> dict[str, float]:
        recorder.measured({"learning_rate": self.learning_rate, "entropy_coef": self.entropy_coef})
        self.last = recorder.finish(final, env_steps=env_steps, rollout_steps=samples, episodes=episodes)
        if self.config.learning_rate_schedule == "kl_adaptive":
            self.learning_rate = adapted_rate(self.learning_rate, self.last, self.config)
        return metrics_of(self.last)

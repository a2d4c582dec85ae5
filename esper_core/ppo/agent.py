"""PPOAgent: acts, and learns with the clipped surrogate of Schulman et al. 2017 (arXiv:1707.06347)."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from esper_core.config.schema import PPOConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.errors import ConfigError, EnvironmentUnsupportedError
from esper_core.events import Divergence
from esper_core.ppo.acting import Actor
from esper_core.ppo.adam import FlatAdam
from esper_core.ppo.checkpoint import load_checkpoint, restore
from esper_core.ppo.compiled import CompiledSteps
from esper_core.ppo.heads import HeadLayout, HeadSpec
from esper_core.ppo.learning import EagerStep, MinibatchStep, learn
from esper_core.ppo.measure import distribution_of, measure, prepare
from esper_core.ppo.metrics import metrics_of
from esper_core.ppo.normalisation import ObservationNormaliser, RewardNormaliser
from esper_core.ppo.policy import MultiHeadPolicy
from esper_core.ppo.preprocessing import ObservationForm, Preprocessing
from esper_core.ppo.reducer import Identity, Reducer, seed_of_rank
from esper_core.ppo.sampling import Noise, noise
from esper_core.ppo.schedules import adapted_rate, refuse_impossible, share_left
from esper_core.ppo.threads import torch_threads
from esper_core.ppo.trunk_choice import chosen, trunk_of
from esper_core.runs.layout import find_run, path_text
from esper_core.updates import EpisodeSummary, UpdateRecorder, UpdateSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from numpy.typing import NDArray
    from torch import Tensor

    from esper_core.events import PPOUpdatePayload
    from esper_core.ppo.actions import ActionForm
    from esper_core.ppo.checkpoint import Checkpoint
    from esper_core.ppo.rollout import Batch, Rollout
    from esper_core.ppo.task import FloatArray
    from esper_core.updates import FinalPass

__all__ = ["Decision", "PPOAgent", "resolve_device"]

_log = logging.getLogger("esper.ppo")


@dataclass(frozen=True, slots=True)
class Decision:
    """Actions of n environments, on the CPU.

    Attributes:
        actions: (n, heads) as they were sampled: int64, or float32 where any head is Gaussian.
        log_prob: float32 (n, heads), nats.
        values: float32 (n,).
        legal: bool (n, heads, width), the mask each head was sampled under; None when all was legal.
    """

    actions: Tensor
    log_prob: Tensor
    values: Tensor
    legal: Tensor | None


def resolve_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: torch knows no such device, or cannot compute on it here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'ppo.device "{name}" is no torch device', hint=_devices()) from error
    try:
        torch.ones(1, device=device).item()  # a name says little: meta computes nothing, cuda:7 may be absent
    except Exception as error:  # torch raises RuntimeError, AssertionError, NotImplementedError, ImportError
        raise ConfigError(f'ppo.device "{name}" is not available here', hint=_devices()) from error
    return device


def _devices() -> str:
    """The devices that can be named on this machine."""
    accelerators = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    accelerators += ["mps"] if torch.backends.mps.is_available() else []
    return f"here: {', '.join(['auto', 'cpu', *accelerators])}"


def _refuse_unbounded(layout: HeadLayout) -> None:
    """Raise for a Gaussian head whose values a squash cannot be scaled to."""
    for head in layout.heads:
        if head.dense and not (math.isfinite(head.low) and math.isfinite(head.high)):
            raise EnvironmentUnsupportedError(
                f"ppo.squash = true needs bounds, and head {head.name} goes from {head.low:g} to {head.high:g}",
                hint="leave ppo.squash at false, or rescale the action: gymnasium.wrappers.RescaleAction",
            )


class PPOAgent:
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
        self.layout = HeadLayout(heads)
        self.obs_shape = tuple(obs_shape)
        self.observation_form = form if form is not None else ObservationForm.numbers(self.obs_shape)
        self.config = chosen(config if config is not None else PPOConfig(), self.observation_form)
        refuse_impossible(self.config)
        self.seed = seed
        self.emitter = emitter if emitter is not None else TelemetryEmitter()
        self.conditioning_head = conditioning_head
        self._conditioning = self._conditioning_column()
        self.action_form = action_form
        if self.config.squash:
            _refuse_unbounded(self.layout)
        self.reducer: Reducer = reducer if reducer is not None else Identity()
        self.device = resolve_device(self.config.device)
        # Of one weight vector all ranks learn; what they draw for it is their own.
        weights = int(np.random.SeedSequence(seed).generate_state(1)[0])
        own = np.random.SeedSequence(seed_of_rank(seed, self.reducer.rank))
        _, sampling, order = (int(word) for word in own.generate_state(3))
        self.sampling_generator = torch.Generator().manual_seed(sampling)
        self.order_generator = torch.Generator().manual_seed(order)
        first = torch.Generator().manual_seed(weights)
        # A second thread would only wait for work: drawing the weights of 64x64 took 0.3 s of CPU with one.
        with torch_threads(1):
            trunk = trunk_of(self.config, self.observation_form, first)
            self.policy = MultiHeadPolicy(
                self.layout, trunk, first, log_std_init=self.config.log_std_init, squash=self.config.squash
            ).to(self.device)
        self._preprocessing = Preprocessing(self.observation_form)
        self.normaliser = (
            ObservationNormaliser(self.observation_form.measured) if self.config.normalise_observations else None
        )
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
        self.updates = 0
        """Updates begun; also the id of the last one."""
        self.last: PPOUpdatePayload | None = None
        """The last update's payload as it was emitted."""

    @property
    def finite(self) -> bool:
        """Whether every weight is finite."""
        return bool(torch.nn.utils.parameters_to_vector(self._parameters).isfinite().all())

    def _conditioning_column(self) -> int | None:
        """The conditioning head's column; None when no head conditions the others."""
        if self.conditioning_head is None:
            return None
        column = self.layout.index(self.conditioning_head)
        if self.layout.heads[column].dense:
            raise EnvironmentUnsupportedError(
                f"head {self.conditioning_head} is {self.layout.kinds[column]} and conditions the others",
                hint="only a head with choices can: each selects a row of the conditional mask",
            )
        return column

    # --- acting -------------------------------------------------------------------------------

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

    def act(
        self,
        obs: Any,
        mask: NDArray[np.bool_] | None = None,
        *,
        conditional_mask: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> Any:
        """Choose actions.

        Args:
            obs: one observation as the environment returns it (an array, a number, a dict or a tuple of them), or n
                of them stacked. It is scaled, made one-hot and normalised here as it was in training.
            mask: bool (sum of head sizes) or (n, ...), the legal choices; None when all are.
            conditional_mask: bool (choices of the conditioning head, sum of head sizes) or (n, ...).
            deterministic: the likeliest choice of each head, or its mean, instead of a sample.

        Returns:
            One action of the environment's space, within its bounds; for stacked observations n of them, stacked (a
            tuple or a dict of stacks for those spaces). An agent that was made without ``action_form`` returns the
            heads' columns: shape () for one head, (heads,) for more, choices counted from 0.

        Raises:
            UsageError: the observation is not what the policy was trained on.
        """
        rows, single = self._preprocessing.read(obs)
        columns = self.columns(rows, mask, conditional_mask=conditional_mask, deterministic=deterministic)
        if self.action_form is not None:
            actions = self.action_form.batch(columns)
            return self.action_form.first(actions) if single else actions
        if self.layout.count == 1:
            columns = columns[:, 0]
        return columns[0] if single else columns

    def columns(
        self,
        rows: FloatArray,
        mask: NDArray[np.bool_] | None = None,
        *,
        conditional_mask: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
        actor: Actor | None = None,
    ) -> NDArray[np.int64] | NDArray[np.float64]:
        """What every head decides, as a task takes it: (n, heads), on its rows (n, inputs); masks as in :meth:`act`.

        Samples are drawn from ``generator``, or from the agent's own. Who calls this often between two updates makes
        one ``actor`` for all calls, see :meth:`actor`: to make it costs as much as a small network.
        """
        count = len(rows)
        legal = None if mask is None else np.asarray(mask, dtype=bool).reshape(count, -1)
        conditional = None
        if conditional_mask is not None:
            conditional = np.asarray(conditional_mask, dtype=bool).reshape(count, -1, self.layout.total)
        drawn = None if deterministic else self.noise(1, count, generator)[0]
        shown = np.ascontiguousarray(self.seen(torch.as_tensor(rows)).numpy(), dtype=np.float32)
        actor = self.actor(count) if actor is None else actor
        return self.bounded(actor(shown, legal, conditional, drawn).actions)

    def seen(self, rows: Tensor) -> Tensor:
        """Rows float32 (..., inputs) as the policy reads them: normalised by the statistics of this moment."""
        return rows if self.normaliser is None else self.normaliser(rows)

    def bounded(self, actions: NDArray[Any]) -> NDArray[np.int64] | NDArray[np.float64]:
        """Sampled actions (n, heads) as the environment takes them: clipped or squashed to its bounds."""
        return self.layout.bounded(actions, squash=self.config.squash)

    def noise(self, steps: int, n_envs: int, generator: torch.Generator | None = None) -> Noise:
        """What the actions of n environments are drawn with, for many steps at once; by default the agent's own."""
        return noise(self.layout, steps, n_envs, self.sampling_generator if generator is None else generator)

    def actor(self, n_envs: int) -> Actor:
        """Acts in n environments with the weights of this moment, until an update changes them."""
        return Actor(self.policy, n_envs, self._conditioning)

    def decide(
        self, observations: Tensor, mask: Tensor | None, conditional: Tensor | None, noise: Noise | None
    ) -> Decision:
        """Act in n environments at once, with tensors.

        Args:
            observations: float32 (n, inputs), as :meth:`seen` returns them.
            mask: bool (n, total), or None.
            conditional: bool (n, choices, total), or None.
            noise: of n environments; None acts greedily.
        """
        actions, log_prob, values, legal = self.actor(len(observations))(
            observations.detach().cpu().contiguous().numpy(),
            None if mask is None else mask.cpu().numpy(),
            None if conditional is None else conditional.cpu().numpy(),
            noise,
        )
        return Decision(
            torch.from_numpy(actions),
            torch.from_numpy(log_prob),
            torch.from_numpy(values),
            None if legal is None else torch.from_numpy(legal),
        )

    @torch.no_grad()
    def values_of(self, observations: Tensor) -> Tensor:
        """Value estimates float32 (n,) on the CPU, without acting."""
        values: Tensor = self.policy(observations.to(self.device))[1]
        return values.cpu()

    # --- learning -----------------------------------------------------------------------------

    @property
    def learning_rate(self) -> float:
        """In force; :meth:`anneal` and, with ``kl_adaptive``, every update move it."""
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def anneal(self, fraction_done: float) -> None:
        """Set learning rate and clip range for the share (0..1) of the planned run that is done."""
        config = self.config
        if config.learning_rate_schedule != "kl_adaptive":
            self.learning_rate = config.learning_rate * share_left(config.learning_rate_schedule, fraction_done)
        self.clip_range = config.clip_range * share_left(config.clip_range_schedule, fraction_done)

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
        fault, final = self._fault(batch, samples), None
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
                batch, parts, clip_range=self.clip_range, should_stop=should_stop, tell=self.on_notice
            )
            if compiled is not None:
                return compiled
        return EagerStep(self.policy, self.optimizer, self.config, clip_range=self.clip_range, reducer=self.reducer)

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
        recorder.measured({"learning_rate": self.learning_rate})
        self.last = recorder.finish(final, env_steps=env_steps, rollout_steps=samples, episodes=episodes)
        if self.config.learning_rate_schedule == "kl_adaptive":
            self.learning_rate = adapted_rate(self.learning_rate, self.last, self.config)
        return metrics_of(self.last)

    def _fault(self, batch: Batch, samples: int) -> tuple[str, int] | None:
        """Why no step may be taken on this batch, and how many values are NaN or Inf."""
        if not samples:
            return "the rollout is empty", 0
        places = {
            "observations": batch.observations,
            "advantages": batch.advantages,
            "returns": batch.returns,
            "old log-probabilities": torch.where(batch.active, batch.log_prob, 0.0),
            "weights": torch.nn.utils.parameters_to_vector(self._parameters),
        }
        # A sum is finite when its summands are (short of an overflow): one transfer clears nearly every rollout.
        sums = torch.stack([values.detach().sum() for values in places.values()])
        if all(math.isfinite(total) for total in self.reducer.sum(sums).tolist()):
            return None
        counted = torch.stack([(~values.isfinite()).sum() for values in places.values()])
        counts = dict(zip(places, self.reducer.sum(counted).tolist(), strict=True))
        counts["weights"] = math.ceil(counts["weights"] / self.reducer.world_size)  # all ranks hold the same
        faults = [f"{count} non-finite {name}" for name, count in counts.items() if count]
        return (", ".join(faults), sum(counts.values())) if faults else None

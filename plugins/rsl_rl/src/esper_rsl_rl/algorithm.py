"""PPO: rsl_rl's own, and for every update the exact KL of the policy that acted to the one after the last step.

rsl_rl keeps the parameters of the distribution that acted, so that one pass over the rollout is all that is added. At
the end of an update it also moves its observation normaliser, and with it the policy that acts next: the KL to that one
takes another pass and stands beside as a divergence.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import torch
from rsl_rl import algorithms

from esper_core.errors import UsageError
from esper_core.events import Divergence
from esper_core.monitoring import monitor
from esper_core.monitoring.options import monitor_options
from esper_rsl_rl.episodes import Episodes
from esper_rsl_rl.policy import Parameters, distribution, head_kind, head_names, judge, watchable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from esper_core.events import PPOUpdatePayload
    from esper_core.monitoring import Monitor

__all__ = ["PPO"]

LIBRARY = "rsl-rl-lib"
"""The distribution."""
_LEVELS = {True: (2.0, 3.0), False: (1.0, 1.5)}
"""Whether the schedule is adaptive -> WARNING and CRITICAL, times desired_kl: it lowers the rate only above 2."""
_latest: weakref.ref[PPO] | None = None
"""The algorithm that opened the last run of this process."""


class PPO(algorithms.PPO):
    """rsl_rl's PPO, which emits one update of Esper for each of its own, and every finished episode.

    The run begins with the first action for a rollout, so that a script that only plays has none. rsl_rl tells an
    algorithm of no end: the run ends with the process, with the next training in it, or with :meth:`close`. What learns
    on after that has a run of its own.

    Args:
        *arguments: of rsl_rl's PPO.
        esper: what :func:`esper_core.monitor` takes: ``name``, ``heads``, ``sinks``, ``settings``, ...
        **options: of rsl_rl's PPO.

    Attributes:
        run: the monitor; None before the first action.
        last: the last update as it was emitted.

    Raises:
        UsageError: a recurrent actor, a distribution without a known KL, another number of names than dimensions, or an
            option that ``monitor`` does not have.
    """

    def __init__(self, *arguments: Any, esper: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        actor = self.get_policy()
        watchable(actor)
        self.run: Monitor | None = None
        self.last: PPOUpdatePayload | None = None
        self._esper = {"heads": head_names(actor)} | monitor_options("esper", {} if esper is None else esper)
        if len(self._esper["heads"]) != len(head_names(actor)):
            raise UsageError(
                f"heads: {len(self._esper['heads'])} names for {len(head_names(actor))} dimensions of the action"
            )
        self._episodes = Episodes()
        self._env_steps = 0
        self._collecting = False
        self._in_loop: list[torch.Tensor] = []
        self._by_steps: Parameters | None = None

    @staticmethod
    def construct_algorithm(obs: Any, env: Any, cfg: dict[str, Any], device: str) -> Any:
        """Construct the algorithm as rsl_rl does, with what the configuration tells of the run."""
        made = algorithms.PPO.construct_algorithm(obs, env, cfg, device)
        if isinstance(made, PPO):
            spec = getattr(getattr(env, "unwrapped", None), "spec", None)
            known = {
                "environment": str(getattr(spec, "id", "") or ""),
                "name": str(cfg.get("run_name") or cfg.get("experiment_name") or ""),
                "seed": max(0, int(cfg.get("seed") or 0)),  # -1 asks for any
                "updates_planned": cfg.get("max_iterations"),
            }
            made._esper = known | made._esper  # noqa: SLF001  # its own
        return made

    # --- what rsl_rl calls --------------------------------------------------------------------

    def act(self, obs: Any) -> Any:
        """Sample actions; the first one of a rollout opens it."""
        if not self._collecting:
            self._collecting = True
            self._opened().begin_rollout()
        return super().act(obs)

    def process_env_step(self, obs: Any, rewards: Any, dones: Any, extras: Any) -> None:
        """Record one environment step."""
        super().process_env_step(obs, rewards, dones, extras)
        with self._opened().harmless("the sum of the episodes"):
            self._episodes.step(rewards, dones, extras.get("time_outs"))

    def update(self) -> dict[str, float]:
        """Learn as rsl_rl does, and report it."""
        run = self._opened()
        self._collecting = False
        self._by_steps, self._in_loop = None, []
        self._env_steps += self._rows * self.gpu_world_size
        with run.harmless("the report of the episodes"):
            run.progress(self._env_steps)
            for item in self._episodes.taken():
                run.episode(item.total, item.length, env_index=item.env_index, truncated=item.truncated)
        run.begin_update(epochs=self.num_learning_epochs, minibatches=self.num_mini_batches)
        with self._watched(run):
            losses: dict[str, float] = super().update()
        with run.harmless("the report of the update"):
            self._report(run, losses)
        return losses

    def close(self) -> None:
        """End the run, for a process that goes on after the training. Again: does nothing."""
        if self.run is not None:
            self.run.close()

    # --- inside -------------------------------------------------------------------------------

    @property
    def _rows(self) -> int:
        """Samples of a rollout on this rank."""
        return int(self.storage.num_envs * self.storage.num_transitions_per_env)

    def _opened(self) -> Monitor:
        global _latest  # noqa: PLW0603  # one process trains one policy after the other
        if self.run is None or self.run.closed:
            earlier = _latest() if _latest is not None else None
            if earlier is not None:
                earlier.close()  # it ended as it should: rsl_rl only does not tell
            self._env_steps = 0
            actor = self.get_policy()
            warning, critical = _LEVELS[self.schedule == "adaptive"]
            options: dict[str, Any] = {
                "head_kinds": (head_kind(actor),) * len(head_names(actor)),
                "n_envs": self.storage.num_envs * self.gpu_world_size,
                "minibatches_planned": self.num_learning_epochs * self.num_mini_batches,
                "default_limits": (warning * self.desired_kl, critical * self.desired_kl) if self.desired_kl else None,
                "clip_range": self.clip_param,
                "library": LIBRARY,
                "library_kl_name": "kl_mean",
                "device": str(self.device),
            }
            self.run = monitor(**(options | self._esper))
            _latest = weakref.ref(self)
        return self.run

    @contextlib.contextmanager
    def _watched(self, run: Monitor) -> Iterator[None]:
        """See the policy between the last step and the normaliser's move, and the KLs that rsl_rl computes."""
        actor = self.get_policy()
        move, compare = actor.update_normalization, actor.get_kl_divergence

        def moved(obs: Any) -> None:
            with run.harmless("the pass after the last step"):
                self._by_steps = self._judged()
            move(obs)

        def compared(old: Parameters, new: Parameters) -> Any:
            kl = compare(old, new)
            self._in_loop.append(kl.detach().mean())  # stays on the device
            return kl

        # Attributes of the object, before the methods of its class.
        actor.update_normalization, actor.get_kl_divergence = moved, compared
        try:
            yield
        finally:
            del actor.update_normalization, actor.get_kl_divergence

    def _judged(self) -> Parameters:
        chunk = max(1, self._rows // self.num_mini_batches)  # what fits into memory with its gradients
        return judge(self.get_policy(), self.storage.observations.flatten(0, 1), chunk)

    def _report(self, run: Monitor, losses: dict[str, float]) -> None:
        actor, storage = self.get_policy(), self.storage
        with run.together():  # a rank whose memory had no room for a pass leaves no other waiting for its sums
            if self._by_steps is None or storage.distribution_params is None:
                raise UsageError("the policy after the last step was not seen: the KL cannot be measured")
            old = distribution(actor, tuple(part.flatten(0, 1) for part in storage.distribution_params))
            new = distribution(actor, self._by_steps)
            normalised = getattr(actor, "obs_normalization", False)
            acting = distribution(actor, self._judged()) if normalised else None
        returns, values = storage.returns.flatten(), storage.values.flatten()
        self.last = run.ppo_update(
            old=old,
            new=new,
            advantages=returns - values,  # rsl_rl normalises the ones that it keeps
            returns=returns,
            values=values,
            env_steps=self._env_steps,
            rollout_steps=self._rows * self.gpu_world_size,
            epochs=self.num_learning_epochs,
            minibatches=self.num_learning_epochs * self.num_mini_batches,
            policy_loss=losses["surrogate"],
            value_loss=0.5 * losses["value"],  # rsl_rl's has no half
            learning_rate=self.learning_rate,
            clip_range=self.clip_param,
            divergences=_normalised(run, old, acting),
            **self._their_kl(),
        )

    def _their_kl(self) -> dict[str, float]:
        """What rsl_rl compares with desired_kl, over all ranks: the mean, and the first, which is about 0."""
        if not self._in_loop:
            return {}
        seen = torch.stack(self._in_loop).double()
        if self.is_multi_gpu:
            torch.distributed.all_reduce(seen)
            seen /= self.gpu_world_size
        return {"library_kl": float(seen.mean()), "kl_first_minibatch": float(seen[0])}


def _normalised(run: Monitor, old: Any, acting: Any) -> tuple[Divergence, ...]:
    """The KL to the policy that acts next, whose observations the moved normaliser scales; nothing without one."""
    if acting is None:
        return ()
    found = run.kl(old=old, new=acting)
    return (
        Divergence(
            name="with_normaliser",
            reference="normaliser",
            estimator="exact",
            per_decision=found.per_decision,
            per_step=found.joint,
        ),
    )

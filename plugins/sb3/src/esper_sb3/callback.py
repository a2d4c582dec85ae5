"""EsperCallback: the true KL of every update of Stable-Baselines3's PPO, the last one included, through public hooks.

SB3 keeps the joint log-probability only, so the heads' old values are computed at the rollout's end, from the policy
that acted: one pass over the rollout, and a second one after the last optimizer step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from esper_core.errors import UsageError
from esper_core.monitoring import monitor
from esper_core.monitoring.options import monitor_options
from esper_sb3.heads import Judged, Rollout, head_names, judge, rollout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esper_core.events import PPOUpdatePayload
    from esper_core.monitoring import Monitor

__all__ = ["EsperCallback"]

CHUNK = 4096
"""Samples in one pass of the policy at most."""
LIBRARY = "stable-baselines3"
"""The distribution."""
_RECURRENT = "RecurrentPPO"
_OWN = (
    *("environment", "head_kinds", "target_kl", "stop_on", "stop_rule", "clip_range", "library", "library_kl_name"),
    *("seed", "n_envs", "steps_planned", "device"),
)
"""What the callback reads from the model."""


class EsperCallback(BaseCallback):
    """Emits one update of Esper for every update of PPO or MaskablePPO, and every finished episode.

    Ctrl-C ends ``learn()`` in order after the current step, so that what follows it still runs; a second one raises
    KeyboardInterrupt. ``signals=False`` leaves signals alone. Each ``learn()`` is a run of its own.

    Args:
        name: of the run, for people.
        heads: names in place of ``action`` or ``action_0``, ...: one a component of the action space.
        causal_mask: takes the actions (N, heads) and returns bool (N, heads): the heads that had an effect. SB3's own
            ratio still contains the others; ``kl_joint`` then is the joint KL of the heads that mattered.
        options: everything else that :func:`esper_core.monitor` takes: ``sinks``, ``settings``, ``kl_on``, ...

    Attributes:
        run: the monitor; None before ``learn()``.
        last: the last update as it was emitted.

    Raises:
        UsageError: an option that ``monitor`` does not have or cannot use; at the start of ``learn()``, before any
            step: not PPO, or an action space that is not supported.
    """

    def __init__(
        self,
        name: str = "",
        *,
        heads: Sequence[str] | None = None,
        causal_mask: Callable[[Any], Any] | None = None,
        verbose: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(verbose)
        self.name = name
        self.run: Monitor | None = None
        self.last: PPOUpdatePayload | None = None
        if causal_mask is not None and not callable(causal_mask):
            raise UsageError(
                f"EsperCallback: causal_mask: expected a function of the actions (is {type(causal_mask).__name__})",
                hint="def causal_mask(actions): return bools, one a head",
            )
        given = options if heads is None else options | {"heads": heads}
        self._options = {"signals": True} | monitor_options("EsperCallback", given, own=_OWN)
        self._heads = tuple(heads) if heads is not None else None
        self._causal_mask = causal_mask
        self._rollout: Rollout | None = None
        self._old: Judged | None = None
        self._steps = 0
        self._hook: Any = None

    # --- SB3's hooks --------------------------------------------------------------------------

    def _on_training_start(self) -> None:
        model = _ppo(self.model)
        _hears_every_step(self)
        space = model.action_space
        heads = self._heads if self._heads is not None else head_names(space)
        if len(heads) != len(head_names(space)):
            raise UsageError(f"heads: {len(heads)} names for {len(head_names(space))} heads of {space}")
        if self.run is not None and not self.run.closed:
            self.run.close()  # an earlier learn() was left by an exception that the caller caught
        total = self.locals.get("total_timesteps")
        clip = model.clip_range(1.0) if callable(model.clip_range) else model.clip_range
        self.run = monitor(
            _environment(model),
            name=self.name,
            head_kinds=_kinds(space, len(heads)),
            target_kl=model.target_kl or 0.0,
            stop_on="joint",
            stop_rule="minibatch",
            clip_range=float(clip),
            library=LIBRARY,
            library_kl_name="train/approx_kl",
            seed=model.seed or 0,
            n_envs=model.n_envs,
            steps_planned=int(total) if total else None,
            device=str(model.device),
            **self._options | {"heads": heads},
        )
        self._rollout = self._old = None
        self._steps = 0
        self._hook = model.policy.optimizer.register_step_post_hook(self._stepped)

    def _on_rollout_start(self) -> None:
        self._report()
        self._monitor.begin_rollout()

    def _on_step(self) -> bool:
        run = self._monitor
        for index, info in enumerate(self.locals.get("infos", ())):
            episode = info.get("episode")
            if episode is not None:
                run.episode(
                    episode["r"],
                    episode["l"],
                    env_index=index,
                    truncated=bool(info.get("TimeLimit.truncated", False)),
                )
        run.progress(self.num_timesteps)
        return not run.stopping

    def _on_rollout_end(self) -> None:
        model, run = _ppo(self.model), self._monitor
        with run.harmless("the pass at the rollout's end"):
            rollout = rollout_of(model.rollout_buffer, model.device)
            self._old = judge(model.policy, rollout, CHUNK)
            self._rollout, self._steps = rollout, 0
            run.begin_update(epochs=model.n_epochs, minibatches=math.ceil(len(rollout) / model.batch_size))

    def _on_training_end(self) -> None:
        self._report()
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._monitor.close()

    # --- inside -------------------------------------------------------------------------------

    @property
    def _monitor(self) -> Monitor:
        assert self.run is not None  # learn() begins with _on_training_start  # noqa: S101
        return self.run

    def _stepped(self, *_: object) -> None:
        self._steps += 1

    def _report(self) -> None:
        """Emit the update that followed the last rollout, when there was one."""
        rollout, old = self._rollout, self._old
        self._rollout = self._old = None
        if rollout is not None and old is not None:
            with self._monitor.harmless("the pass after the update"):
                self._emit(rollout, old)

    def _emit(self, rollout: Rollout, old: Judged) -> None:
        model, run = _ppo(self.model), self._monitor
        new = judge(model.policy, rollout, CHUNK)
        exact = old.exact_kl(new)
        minibatches = math.ceil(len(rollout) / model.batch_size)
        epochs = min(self._steps // minibatches + 1, model.n_epochs)
        if self._steps < model.n_epochs * minibatches:
            run.stopped_early(
                epoch=epochs,
                reason=f"stopped by stable-baselines3 above 1.5 x target_kl, after {self._steps} optimizer steps",
            )
        drift = (old.log_prob.sum(-1) - rollout.stored).double()
        self.last = run.ppo_update(
            new.log_prob - old.log_prob if exact is None else None,
            kl=exact,
            causal=None if self._causal_mask is None else self._causal_mask(rollout.actions),
            choices=old.choices,
            entropy=new.entropy,
            advantages=rollout.advantages,
            returns=rollout.returns,
            values=rollout.values,
            env_steps=self.num_timesteps,
            epochs=epochs,
            minibatches=self._steps,
            # The heads' log-probabilities were computed anew: against those that SB3 kept this is about 0.
            kl_first_minibatch=float((torch.expm1(drift) - drift).mean()),
            **_logged(self.model.logger.name_to_value),
        )


def _ppo(model: Any) -> Any:
    """The model, when it is PPO or MaskablePPO."""
    name = type(model).__name__
    if _RECURRENT in {item.__name__ for item in type(model).__mro__}:
        raise UsageError(
            f"{name} is not supported: its log-probabilities depend on hidden states that one pass over the rollout "
            "does not have, so the KL would not be the policy's"
        )
    if not isinstance(model, OnPolicyAlgorithm) or not hasattr(model, "n_epochs"):
        raise UsageError(f"{name} is not PPO", hint="EsperCallback watches PPO, and MaskablePPO of sb3-contrib")
    return model


def _hears_every_step(callback: BaseCallback) -> None:
    """Refuse a callback inside one that passes on only some steps and no rollout: it would report nothing.

    Raises:
        UsageError: a parent is another one than SB3's list of callbacks.
    """
    parent = callback.parent
    while parent is not None:
        if not isinstance(parent, CallbackList):
            name = type(parent).__name__
            raise UsageError(
                f"EsperCallback inside {name} hears neither rollouts nor every step, so no update would be reported",
                hint=f"give both to learn(): callback=[EsperCallback(...), {name}(...)]",
            )
        parent = parent.parent


def _environment(model: Any) -> str:
    """The environments' id, when they have one."""
    try:
        spec = model.get_env().get_attr("spec", [0])[0]
    except (AttributeError, IndexError, EOFError):
        return ""
    return str(getattr(spec, "id", "") or "")


def _kinds(space: Any, count: int) -> tuple[Any, ...]:
    if isinstance(space, spaces.Box):
        return ("gaussian",) * count
    return ("bernoulli" if isinstance(space, spaces.MultiBinary) else "categorical",) * count


def _logged(values: dict[str, Any]) -> dict[str, Any]:
    """What SB3 recorded of the update, under the payload's names."""
    fields = {
        "policy_loss": ("train/policy_gradient_loss", 1.0),
        "value_loss": ("train/value_loss", 0.5),  # SB3's has no half
        "clip_fraction": ("train/clip_fraction", 1.0),
        "learning_rate": ("train/learning_rate", 1.0),
        "clip_range": ("train/clip_range", 1.0),
        "library_kl": ("train/approx_kl", 1.0),
    }
    return {name: factor * float(values[key]) for name, (key, factor) in fields.items() if key in values}

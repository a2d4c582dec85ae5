"""report: the true KL of every PPO update of a torchrl trainer, through its public ``post_steps_log`` hook.

The hook gets the whole batch after the last optimizer step, and the batch holds the log-probabilities of the policy
that collected it. One pass of the policy over the batch is all that is added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torchrl.objectives import PPOLoss

from esper_core.errors import UsageError
from esper_core.monitoring import monitor
from esper_core.monitoring.options import monitor_options
from esper_torchrl.policy import Samples, head_kinds, head_names, log_prob_keys, samples_of

if TYPE_CHECKING:
    from esper_core.events import PPOUpdatePayload
    from esper_core.monitoring import Monitor

__all__ = ["Report", "report"]

LIBRARY = "torchrl"
"""The distribution."""
_MEANS = {"kl_approx": "library_kl", "loss_objective": "policy_loss", "clip_fraction": "clip_fraction"}
"""What the loss module returns -> the payload's field. Its critic's loss has another scale and is left out."""


def report(source: Any, name: str = "", **options: Any) -> Report:
    """Make the hook that reports a trainer's updates to Esper.

    Args:
        source: the trainer, or its loss module: ``PPOLoss``, ``ClipPPOLoss`` or ``KLPENPPOLoss``.
        name: of the run, for people.
        **options: everything else that :func:`esper_core.monitor` takes: ``heads``, ``sinks``, ``settings``,
            ``target_kl``, ... ``heads`` are names in the order of the loss module's ``sample_log_prob`` keys.

    Returns:
        The hook: ``trainer.register_op("post_steps_log", hook)``. In a loop of one's own: ``hook(batch)`` after the
        last optimizer step.

    Raises:
        UsageError: no PPO loss, a recurrent policy, or an option that ``monitor`` does not have.
    """
    return Report(source, name, options)


class Report:
    """Emits one update of Esper a batch, and the episodes that ended in it. :func:`report` makes it.

    The run begins with the first loss that is computed and ends with the trainer, or with :meth:`close`.

    Attributes:
        run: the monitor; None before the first loss.
        last: the last update as it was emitted.
    """

    def __init__(self, source: Any, name: str, options: dict[str, Any]) -> None:
        self.run: Monitor | None = None
        self.last: PPOUpdatePayload | None = None
        self._trainer = source if hasattr(source, "loss_module") else None
        self._loss = _ppo_loss(source)
        self._name = name
        self._options = monitor_options("report", options, own=("library", "library_kl_name"))
        self._frames = 0
        self._means: dict[str, Any] = {}
        self._steps = 0
        self._loss.register_forward_hook(self._saw)
        if self._trainer is not None:
            self._trainer.register_op("shutdown", self.close)

    def __call__(self, batch: Any) -> None:
        """Report the update that ``batch`` was used for. Adds nothing to the trainer's own log."""
        run = self._opened()
        with run.harmless("the pass after the update"):
            if batch is None:
                raise UsageError(
                    "the trainer hands over no batch (asynchronous collection): its updates cannot be reported",
                    hint="collect synchronously: Trainer(async_collection=False)",
                )
            samples = samples_of(self._loss, batch)
            self._frames += samples.frames
            self._episodes(run, samples)
            if self._steps:  # none while the trainer only collects
                self._emit(run, samples)
        self._means, self._steps = {}, 0

    def close(self) -> None:
        """End the run. The trainer does it when it shuts down, a loop of one's own does it itself."""
        if self.run is not None:
            self.run.close()

    # --- inside -------------------------------------------------------------------------------

    def _opened(self) -> Monitor:
        if self.run is None:
            keys = log_prob_keys(self._loss)
            planned = getattr(self._trainer, "total_frames", None)
            options = {
                "heads": head_names(keys),
                "head_kinds": head_kinds(self._loss, keys),
                "clip_range": _number(getattr(self._loss, "clip_epsilon", None)),
                "steps_planned": int(planned) if isinstance(planned, int) and planned > 0 else None,
                **self._options,
            }
            if len(options["heads"]) != len(keys):
                raise UsageError(f"heads: {len(options['heads'])} names for {len(keys)} log-probabilities of the batch")
            self.run = monitor(name=self._name, library=LIBRARY, library_kl_name="kl_approx", **options)
        return self.run

    def _saw(self, _module: Any, _inputs: Any, found: Any) -> None:
        """One minibatch's loss, before its step: sums stay on the device."""
        self._opened()
        if not torch.is_grad_enabled():
            return  # looked at, not learned from
        self._steps += 1
        for name in _MEANS:
            value = found.get(name, None)
            if value is not None:
                self._means[name] = self._means.get(name, 0.0) + value.detach().double().mean()

    def _emit(self, run: Monitor, samples: Samples) -> None:
        known: dict[str, Any] = {_MEANS[name]: float(total) / self._steps for name, total in self._means.items()}
        epochs = getattr(self._trainer, "num_epochs", None)
        if isinstance(epochs, int):
            known["epochs"] = epochs
        self.last = run.ppo_update(
            old=samples.old,
            new=samples.new,
            mask=samples.mask,
            entropy=samples.entropy,
            advantages=samples.advantages,
            returns=samples.returns,
            values=samples.values,
            env_steps=self._frames,
            rollout_steps=samples.frames,
            minibatches=self._steps,
            **known,
        )

    def _episodes(self, run: Monitor, samples: Samples) -> None:
        for value, length, truncated in samples.episodes:
            run.episode(value, length, truncated=truncated)


def _ppo_loss(source: Any) -> Any:
    """The loss module, when it is one of PPO and its policy needs no memory."""
    loss = getattr(source, "loss_module", source)
    if not isinstance(loss, PPOLoss):
        raise UsageError(
            f"{type(loss).__name__} is not a PPO loss",
            hint="report(trainer) or report(loss_module), with PPOLoss, ClipPPOLoss or KLPENPPOLoss",
        )
    if "is_init" in loss.actor_network.in_keys:
        raise UsageError(
            "a recurrent policy is not supported: its log-probabilities depend on hidden states that one pass over "
            "the flat batch does not have"
        )
    return loss


def _number(value: Any) -> float | None:
    return None if value is None else float(value)

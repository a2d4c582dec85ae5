"""EsperCallback: the KL between the policy and the one that sampled, for every update of TRL's GRPO and RLOO.

An update is everything that TRL learns from one generation of completions: one optimizer step by default, more with
``steps_per_generation`` or ``num_iterations``. The behaviour policy is judged before the first of them, the new one
after the last; what TRL logs of its reference model stands beside it as a divergence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from trl import GRPOTrainer, RLOOTrainer

from esper_core.errors import UsageError
from esper_core.events import Divergence
from esper_core.monitoring import monitor
from esper_core.monitoring.options import monitor_options
from esper_trl.generation import Generation, Judged, buffered, generate_every, micro_steps, require_private

if TYPE_CHECKING:
    from typing import Self

    from esper_core.events import PPOUpdatePayload
    from esper_core.monitoring import Monitor

__all__ = ["EsperCallback"]

LIBRARY = "trl"
"""The distribution; `esper_trl` itself refuses a version outside the tested range before this module is imported."""
_OWN = (
    *("heads", "granularity", "algorithm", "library", "clip_range", "seed", "updates_planned", "minibatches_planned"),
    "device",
)
"""What the callback reads from the trainer."""
_LOGGED = {"learning_rate": "learning_rate", "grad_norm": "grad_norm", "clip_ratio/region_mean": "clip_fraction"}
"""What TRL logs under its names, and the payload's."""


@dataclass(slots=True)
class _Update:
    """What is known of an update so far; ``new`` follows its last optimizer step."""

    generation: Generation
    old: Judged
    new: Judged | None = None
    steps: int = 0


class EsperCallback(TrainerCallback):
    """Emits one update of Esper for every generation of completions that the trainer learnt from.

    ``EsperCallback(name="mine").attach(trainer)`` before ``trainer.train()``. Ctrl-C ends ``train()`` in order after
    the current optimizer step; a second one raises KeyboardInterrupt. ``signals=False`` leaves signals alone. Each
    ``train()`` is a run of its own. A token is a decision, a sequence a step; levels are on the KL per token.

    Args:
        name: of the run, for people.
        every: measure each n-th generation only, the first included. Nothing is emitted for the others.
        max_tokens: measure no more completion tokens of a generation than this, on each rank: as many sequences as
            have room at ``max_completion_length``, at least one.
        options: everything else that :func:`esper_core.monitor` takes: ``sinks``, ``settings``, ``kl_warning``, ...

    Attributes:
        run: the monitor; None before ``train()``.
        last: the last update as it was emitted.

    Raises:
        UsageError: ``every`` or ``max_tokens`` is below 1, or an option that ``monitor`` does not have.
    """

    def __init__(self, name: str = "", *, every: int = 1, max_tokens: int | None = None, **options: Any) -> None:
        for word, value in (("every", every), ("max_tokens", max_tokens)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"{word}: expected a whole number from 1 (is {value!r})")
        self.name = name
        self.run: Monitor | None = None
        self.last: PPOUpdatePayload | None = None
        self._every, self._max_tokens = every, max_tokens
        self._options: dict[str, Any] = {"signals": True, "kl_on": "weighted"} | monitor_options(
            "EsperCallback", options, own=_OWN
        )
        self._trainer: Any = None
        self._source: list[dict[str, Any]] | None = None
        self._update: _Update | None = None
        self._logs: dict[str, Any] = {}
        self._generations = self._sequences = 0

    def attach(self, trainer: Any) -> Self:
        """Watch a trainer.

        Args:
            trainer: a GRPOTrainer or an RLOOTrainer, before its ``train()``.

        Returns:
            This callback.

        Raises:
            UsageError: another trainer, or a gradient accumulation that hides the behaviour policy.
        """
        _watchable(trainer)
        if self._max_tokens is not None and not trainer.args.max_completion_length:
            raise UsageError("max_tokens needs max_completion_length, which tells how many sequences have room")
        self._trainer = trainer
        trainer.add_callback(self)
        return self

    # --- the trainer's hooks ------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002  # TRL's signature
        """Open the run."""
        if self._trainer is None:
            raise UsageError("EsperCallback has no trainer", hint='EsperCallback(name="mine").attach(trainer)')
        if self.run is not None and not self.run.closed:
            self.run.close()  # an earlier train() was left by an exception that the caller caught
        self._source, self._update, self._logs = None, None, {}
        self._generations = self._sequences = 0
        steps = _steps_an_update(self._trainer)
        self.run = monitor(
            name=self.name,
            heads=("token",),
            granularity="token",
            algorithm="rloo" if isinstance(self._trainer, RLOOTrainer) else "grpo",
            library=LIBRARY,
            clip_range=float(args.epsilon),
            seed=args.seed,
            updates_planned=math.ceil((state.max_steps - state.global_step) / steps / self._every) or None,
            minibatches_planned=steps,
            device=str(args.device),
            **self._options,
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002  # as above
        """Emit the update before, whose log is out by now."""
        if self._update is None or self._update.new is not None:
            self._emit()
            self._monitor.begin_rollout()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002  # as above
        """Judge the behaviour policy: before the first step on new completions the weights are those that sampled."""
        with self._monitor.harmless("the pass before the update"):
            source = buffered(self._trainer)
            if source is not self._source:
                self._source, self._update = source, None
                self._begin(source)
        if self._update is not None:
            self._update.steps += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002  # as above
        """Judge the new policy, when this was the last step on these completions."""
        if micro_steps(self._trainer) % generate_every(self._trainer) == 0:
            self._judge_new()
        if self._monitor.stopping:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002  # as above
        """Keep what TRL logged of the update."""
        self._logs |= {key: value for key, value in (logs or {}).items() if isinstance(value, (int, float))}

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002  # as above
        """Emit the last update and end the run."""
        self._judge_new()  # training may end between two steps on the same completions
        self._emit()
        self._source = None
        self._monitor.close()

    # --- inside -------------------------------------------------------------------------------

    @property
    def _monitor(self) -> Monitor:
        assert self.run is not None  # train() begins with on_train_begin  # noqa: S101
        return self.run

    def _begin(self, source: list[dict[str, Any]]) -> None:
        rows = None
        if self._max_tokens is not None:
            rows = max(1, self._max_tokens // self._trainer.args.max_completion_length)
        generation = Generation.of(source, rows=rows)
        self._generations += 1
        self._sequences += generation.sequences * self._trainer.accelerator.num_processes
        if (self._generations - 1) % self._every == 0:
            self._monitor.begin_update(epochs=self._trainer.num_iterations, minibatches=self._steps_an_epoch)
            self._update = _Update(generation, generation.judge(self._trainer))

    @property
    def _steps_an_epoch(self) -> int:
        return math.ceil(_steps_an_update(self._trainer) / int(self._trainer.num_iterations))

    def _judge_new(self) -> None:
        update = self._update
        if update is not None and update.new is None:
            with self._monitor.harmless("the pass after the update"):
                update.new = update.generation.judge(self._trainer, entropy=True)

    def _emit(self) -> None:
        """Emit the update whose last step is taken, when there is one."""
        update, logs = self._update, self._logs
        self._update, self._logs = None, {}
        if update is not None and update.new is not None:
            with self._monitor.harmless("the report of the update"):
                self._report(update, update.new, logs)

    def _report(self, update: _Update, new: Judged, logs: dict[str, Any]) -> None:
        generation = update.generation
        mask, advantages = generation.mask, generation.given("advantages")
        self.last = self._monitor.ppo_update(
            old=update.old.log_prob,
            new=new.log_prob,
            mask=mask,
            entropy=new.entropy,
            advantages=advantages if advantages is not None and advantages.ndim == 1 else None,
            env_steps=self._sequences,
            rollout_steps=generation.sequences * self._trainer.accelerator.num_processes,
            minibatches=update.steps,
            epochs=math.ceil(update.steps / self._steps_an_epoch),
            kl_first_minibatch=_drift(generation.given("old_per_token_logps"), update.old.log_prob, mask),
            divergences=self._divergences(update, mask, logs),
            **{field: float(logs[key]) for key, field in _LOGGED.items() if key in logs},
        )

    def _divergences(self, update: _Update, mask: torch.Tensor, logs: dict[str, Any]) -> tuple[Divergence, ...]:
        """The reference KL: as GRPO defines it, of the policy that sampled; RLOO's from its log."""
        reference = update.generation.given("ref_per_token_logps")
        if reference is not None:
            r = torch.where(mask, reference - update.old.log_prob, 0.0).double()
            total, tokens, sequences = self._summed((torch.expm1(r) - r).sum(), mask.sum(), mask.any(-1).sum())
            return (
                Divergence(
                    name="kl",
                    per_decision=total / tokens if tokens else None,
                    per_step=total / sequences if sequences else None,
                ),
            )
        if "kl" not in logs:
            return ()
        estimator = "k1" if isinstance(self._trainer, RLOOTrainer) else "k3"
        return (Divergence(name="kl", estimator=estimator, per_decision=float(logs["kl"])),)

    def _summed(self, *values: torch.Tensor) -> list[float]:
        """Sums over all ranks: each of them calls this."""
        stacked = torch.stack([value.double() for value in values])
        found: list[float] = self._trainer.accelerator.reduce(stacked, reduction="sum").tolist()
        return found


def _watchable(trainer: Any) -> None:
    """Refuse what cannot be watched, in one sentence."""
    name = type(trainer).__name__
    if not isinstance(trainer, (GRPOTrainer, RLOOTrainer)):
        raise UsageError(f"{name} is no GRPOTrainer and no RLOOTrainer", hint="EsperCallback watches these two")
    require_private(trainer)
    accumulated, between = trainer.args.gradient_accumulation_steps, generate_every(trainer)
    if between % accumulated:
        raise UsageError(
            f"gradient_accumulation_steps={accumulated} hides the behaviour policy: one optimizer step would learn "
            f"from more than one generation, which TRL makes every {between} micro-batches",
            hint="make steps_per_generation x num_iterations a multiple of gradient_accumulation_steps",
        )


def _steps_an_update(trainer: Any) -> int:
    """Optimizer steps that one generation of completions gives."""
    return generate_every(trainer) // int(trainer.args.gradient_accumulation_steps)


def _drift(given: torch.Tensor | None, old: torch.Tensor, mask: torch.Tensor) -> float | None:
    """k3 per token of our pass against TRL's own log-probabilities of the behaviour policy, about 0; else None.

    Dropout, with which TRL makes its own, and a wrong way of reading TRL's buffer show here.
    """
    if given is None or not bool(mask.any()):
        return None
    r = (old - given.float())[mask].double()
    return float((torch.expm1(r) - r).mean())

"""One PPO update and its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, TypeAlias

from esper_core.events._record import EventKind, Payload, Record
from esper_core.events.fields import about, measured
from esper_core.health import HealthLevel, KLOn

__all__ = [
    "Divergence",
    "EarlyStop",
    "Granularity",
    "HeadKind",
    "HeadStats",
    "KLMeasured",
    "Outcome",
    "PPOUpdatePayload",
]

Outcome: TypeAlias = Literal["completed", "early_stopped", "skipped", "interrupted"]
KLMeasured: TypeAlias = Literal["after_last_step", "in_loop", "none"]
Granularity: TypeAlias = Literal["step", "token"]
HeadKind: TypeAlias = Literal["categorical", "gaussian", "beta", "bernoulli", "token"]
_DENSITIES: Final[frozenset[HeadKind]] = frozenset({"gaussian", "beta"})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeadStats(Record):
    """One head's part of an update, over its active decisions: those with an effect and more than one legal choice."""

    name: str = field(
        metadata=about(
            "Name of the head, in the policy's order; the other `esper.ppo.head.*` arrays are parallel to it.",
            examples=(("operations", "slot"),),
        )
    )
    kl: float | None = measured(
        "Mean KL(old || new) per active decision of each head; empty for a head without active decisions.",
        unit="{nat}",
        gauge=True,
    )
    kind: HeadKind = measured(
        "The distribution each head draws from; an entropy of `gaussian` and `beta` is differential. Absent: all "
        "categorical.",
        default="categorical",
        implied=True,
        examples=(("categorical", "gaussian"),),
    )
    decisions: int = measured(
        "Active decisions of each head, `n_h`: causal mask 1 and more than one legal choice.",
        default=0,
        unit="{decision}",
        gauge=True,
    )
    weight: float | None = measured(
        "Share of unforced steps on which each head is active, `n_h / T`, 0..1; empty when there are none.",
        unit="1",
        gauge=True,
    )
    share: float | None = measured(
        "Each head's share of the summed KL, `num_h / sum(num)`, 0..1; empty when the sum is 0.", unit="1", gauge=True
    )
    entropy: float | None = measured(
        "Mean entropy per active decision of each head; differential for `gaussian` and `beta`, and then it may be "
        "negative.",
        unit="{nat}",
        gauge=True,
    )
    entropy_normalised: float | None = measured(
        "Mean of each head's entropy over log(number of legal choices), over its active decisions, 0..1; not defined "
        "for `gaussian` and `beta`, which have no number of choices.",
        unit="1",
        gauge=True,
    )
    clip_fraction: float | None = measured(
        "Share of each head's active decisions with `|ratio_h - 1| > clip_range`, over all minibatches seen, in the "
        "loop, 0..1.",
        unit="1",
        gauge=True,
    )

    @property
    def differential(self) -> bool:
        """Whether the entropy is that of a density: it may be negative, and the normalised one is not defined."""
        return self.kind in _DENSITIES


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Divergence(Record):
    """A divergence of something else than the behaviour policy: what a library also calls KL. It never sets a level."""

    name: str = field(
        metadata=about(
            "What the library calls it; the other `esper.ppo.divergence.*` arrays are parallel to it.",
            examples=(("objective/kl",),),
        )
    )
    reference: str = measured(
        "What the policy is compared with: `reference_model`, `proximal`, `sampler`, `teacher` or `normaliser`.",
        default="reference_model",
        examples=(("reference_model",),),
    )
    estimator: str = measured("How it was estimated: `k1`, `k2`, `k3` or `exact`.", default="k3", examples=(("k1",),))
    direction: str = measured(
        "Which way round: `policy_reference` for KL(policy || reference), or `reference_policy`.",
        default="policy_reference",
        examples=(("policy_reference",),),
    )
    per_decision: float | None = measured("Mean per decision (a token, where that is one).", unit="{nat}")
    per_step: float | None = measured("Mean per step (a sequence, where that is one).", unit="{nat}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EarlyStop(Record):
    """Where and why an update stopped early."""

    epoch: int = field(metadata=about("Epoch of the early stop, counted from 1."))
    minibatch: int = field(
        metadata=about(
            "Minibatch within that epoch, counted from 1; the optimizer step of this one was not taken (rule "
            "`epoch`: the last one of the epoch, whose step was taken)."
        )
    )
    value: float | None = measured(
        "The KL that exceeded the limit, as the rule pools it; absent when the library that stopped does not tell.",
        unit="{nat}",
    )
    threshold: float = field(metadata=about("The limit that it exceeded.", unit="{nat}"))
    head: str | None = measured(
        "The head with the largest share of the KL that the early stop compared.", examples=("slot",)
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PPOUpdatePayload(Payload):
    """One PPO update: what was planned, what was done, and how far the policy moved; below the iteration.

    KL fields are in nats, estimated as KL(old || new) with Schulman's k3 = expm1(r) - r over the rollout's samples.
    ``kl_divergence`` is per head-decision (sum of numerators over sum of active decisions), ``kl_joint`` per unforced
    environment step (what other libraries' ``target_kl`` means). Both are measured in one pass over the whole
    rollout after the last optimizer step, as entropies are; losses, gradient norms and clip fractions are the loop's.
    ``kl_*`` is the behaviour policy's, always: whatever else is called KL stands in ``divergences``. See
    docs/explanation/kl.md.
    """

    kind: ClassVar[EventKind] = "ppo_updated"

    update_id: int = field(
        metadata=about("Number of the update, from 1, over all attempts of a run.", unit="{update}", gauge=True)
    )
    env_steps: int = measured(
        "Environment steps taken in the run when the update began.", default=0, unit="{step}", gauge=True
    )
    outcome: Outcome = measured(
        "How the update ended: completed, early_stopped, skipped (no step was possible) or interrupted (by a signal).",
        default="completed",
    )
    reason: str = measured(
        "Why the update was not completed; empty when it was.", default="", examples=("every minibatch was masked",)
    )
    device: str = measured(
        "Torch device the update ran on, for example `cpu`.",
        default="cpu",
        examples=("cpu", "cuda:0"),
    )
    # KL
    kl_divergence: float | None = measured(
        "KL(old || new) per head-decision after the last optimizer step: sum of the heads' numerators "
        "over the sum of their active decisions. The number of TELE-111, by default compared with 0.015 and 0.03.",
        unit="{nat}",
        gauge=True,
        examples=(0.0123,),
    )
    kl_joint: float | None = measured(
        "KL(old || new) per unforced environment step after the last optimizer step: what other "
        "libraries' `target_kl` means.",
        unit="{nat}",
        gauge=True,
    )
    kl_first_minibatch: float | None = measured(
        "Weighted KL of the first minibatch, before any step: about 0 when the old log-probabilities "
        "match, else the self-test failed.",
        unit="{nat}",
        gauge=True,
    )
    kl_mean: float | None = measured(
        "In-loop weighted KL over all minibatches seen: sum of their numerators over the sum of their decisions.",
        unit="{nat}",
        gauge=True,
    )
    kl_max: float | None = measured("Largest in-loop weighted KL of one minibatch.", unit="{nat}", gauge=True)
    kl_last: float | None = measured("Last in-loop weighted KL of one minibatch.", unit="{nat}", gauge=True)
    kl_by_epoch: tuple[float, ...] = measured(
        "Pooled in-loop weighted KL of each epoch begun.", default=(), unit="{nat}"
    )
    kl_estimator: str = measured("How the reported KL was estimated: `k3` or `exact`.", default="k3")
    kl_measured: KLMeasured = measured(
        "When the KL was measured: after the last optimizer step, in the loop only (then `kl_divergence` is absent), "
        "or never. Only `after_last_step`, which goes without saying, sets a level.",
        default="after_last_step",
        implied=True,
    )
    granularity: Granularity = measured(
        "What a step is: an environment step, or a sequence of tokens of which each is a decision (`token`). Absent: "
        "`step`.",
        default="step",
        implied=True,
    )
    library: str = measured(
        "The library that ran the update, empty for Esper's own loop.", default="", examples=("stable-baselines3",)
    )
    library_kl_name: str = measured(
        "What the library calls its own KL of the update.", default="", examples=("train/approx_kl",)
    )
    library_kl: float | None = measured(
        "The library's own KL of the update, as it reports it; it sets no level.", unit="{nat}", gauge=True
    )
    divergences: tuple[Divergence, ...] = measured(
        "Divergences of something else than the behaviour policy, one entry each.", default=(), name="divergence"
    )
    target_kl: float | None = measured(
        "The configured KL target; None when early stopping is off.", unit="{nat}", gauge=True
    )
    stop_threshold: float | None = measured(
        "The limit of early stopping in force, 1.5 times the target.", unit="{nat}", gauge=True
    )
    stop_on: str = measured("`weighted` or `joint`: which KL the limit is on.", default="weighted")
    stop_rule: str = measured("What the limit is compared with: `pooled`, `minibatch` or `epoch`.", default="pooled")
    stop_window: int | None = measured("Minibatches pooled by the early stop's rule.", unit="{minibatch}", gauge=True)
    early_stop: EarlyStop | None = measured("Where the update stopped early, or None.")
    joint_would_stop: bool | None = measured(
        "Whether the same stop rule on the joint KL would have ended the update where it did or earlier; a weighted "
        "stop counts. None when early stopping is off."
    )
    ratio_max: float | None = measured(
        "Largest joint probability ratio seen, after the last step.", unit="{ratio}", gauge=True
    )
    clamped: int = measured(
        "Active log-ratios beyond +-20 that were clamped, in the final pass.", default=0, unit="{ratio}"
    )
    non_finite: int = measured(
        "Active log-ratios, losses or gradients that were NaN or Inf during the update.", default=0, unit="{value}"
    )
    health: HealthLevel = measured("The update's own level.", default=HealthLevel.UNKNOWN, unit="{level}", gauge=True)
    heads: tuple[HeadStats, ...] = measured("One entry a head, in the policy's order.", default=(), name="head")
    # work
    epochs: int = measured("Epochs begun.", default=0, unit="{epoch}", gauge=True)
    epochs_planned: int = measured("Epochs planned.", default=0, unit="{epoch}", gauge=True)
    minibatches: int = measured("Optimizer steps taken.", default=0, unit="{minibatch}", gauge=True)
    minibatches_planned: int = measured("Optimizer steps planned.", default=0, unit="{minibatch}", gauge=True)
    steps: int = measured("Unforced environment steps T in the rollout.", default=0, unit="{step}", gauge=True)
    steps_forced: int = measured(
        "Steps on which no head had both an effect and a choice.", default=0, unit="{step}", gauge=True
    )
    # learning
    policy_loss: float | None = measured(
        "Clipped surrogate loss per unforced step, mean over the minibatches whose step was taken.",
        unit="{loss}",
        gauge=True,
    )
    value_loss: float | None = measured(
        "Value loss (0.5 * squared error) per step, mean over the minibatches whose step was taken.",
        unit="{loss}",
        gauge=True,
    )
    entropy: float | None = measured(
        "Entropy per unforced step, summed over active heads, after the last step.", unit="{nat}", gauge=True
    )
    entropy_normalised: float | None = measured(
        "Mean normalised entropy over active decisions of the heads that have one, 0..1.", unit="1", gauge=True
    )
    clip_fraction: float | None = measured(
        "Share of unforced steps with `|joint ratio - 1| > clip_range`, over all minibatches seen, in the loop, the "
        "one that crossed the stop's limit among them, 0..1.",
        unit="1",
        gauge=True,
    )
    explained_variance: float | None = measured(
        "1 - Var(return - value) / Var(return); None when the returns do not vary.", unit="1", gauge=True
    )
    grad_norm: float | None = measured(
        "Global gradient norm before clipping, mean over the minibatches whose step was taken.",
        unit="{norm}",
        gauge=True,
    )
    grad_norm_max: float | None = measured(
        "Largest global gradient norm before clipping, of the minibatches whose step was taken.",
        unit="{norm}",
        gauge=True,
    )
    advantage_mean: float | None = measured(
        "Mean advantage of the rollout before normalisation.", unit="{reward}", gauge=True
    )
    advantage_std: float | None = measured(
        "Standard deviation of the rollout's advantages before normalisation.", unit="{reward}", gauge=True
    )
    learning_rate: float | None = measured("Learning rate of the last optimizer step.", unit="{rate}", gauge=True)
    clip_range: float | None = measured("Clip range of the surrogate.", unit="{ratio}", gauge=True)
    entropy_coef: float | None = measured("Weight of the entropy bonus.", unit="{weight}", gauge=True)
    # returns of finished episodes
    episodes: int = measured("Episodes finished in this rollout.", default=0, unit="{episode}")
    run_episodes: int | None = measured(
        "Episodes finished in the run so far, over all attempts; None when they are not counted.", unit="{episode}"
    )
    return_mean: float | None = measured(
        "Mean undiscounted return of the episodes finished in the rollout.", unit="{reward}", gauge=True
    )
    return_min: float | None = measured(
        "Smallest return of the episodes finished in the rollout.", unit="{reward}", gauge=True
    )
    return_max: float | None = measured(
        "Largest return of the episodes finished in the rollout.", unit="{reward}", gauge=True
    )
    episode_length_mean: float | None = measured(
        "Mean length of the episodes finished in the rollout, in environment steps.", unit="{step}", gauge=True
    )
    return_mean_100: float | None = measured(
        "Mean return of the last 100 episodes of the run.", unit="{reward}", gauge=True
    )
    # time
    rollout_s: float | None = measured("Seconds spent collecting the rollout.", unit="s", gauge="rollout.duration")
    update_s: float | None = measured("Seconds spent in the update.", unit="s", gauge="update.duration")
    steps_per_s: float | None = measured(
        "Environment steps of the rollout per second of rollout and update together.",
        unit="{step}/s",
        gauge="throughput",
    )

    def judged_kl(self, on: KLOn) -> float | None:
        """The KL that the run's limits are on, nats, unrounded; None when not measured."""
        return self.kl_joint if on == "joint" else self.kl_divergence

    @property
    def differential(self) -> bool:
        """Whether every head draws from a density: the entropy is differential, and a normalised one not defined."""
        return bool(self.heads) and all(head.differential for head in self.heads)

    @property
    def leading_head(self) -> HeadStats | None:
        """The head with the largest share of the KL, or None when no head has one."""
        shares = [head for head in self.heads if head.share is not None and not math.isnan(head.share)]
        return max(shares, key=lambda head: head.share or 0.0, default=None)

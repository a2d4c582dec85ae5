"""From an update's measurements to its payload: everything here is host arithmetic on plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from esper_core.events import EarlyStop, HeadStats, Outcome, PPOUpdatePayload
from esper_core.ppo.episodes import mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.ppo.episodes import EpisodeSummary
    from esper_core.ppo.kl import KLStats, StopMonitor

__all__ = ["FinalPass", "MinibatchReport", "RolloutReport", "UpdateRecord", "metrics_of"]


@dataclass(frozen=True, slots=True)
class MinibatchReport:
    """What one minibatch showed before its optimizer step."""

    kl: KLStats
    policy_loss: float
    value_loss: float
    clip_fraction: float | None
    grad_norm: float
    interrupted: bool

    @property
    def non_finite(self) -> int:
        """Losses and gradients that were NaN or Inf."""
        return sum(not math.isfinite(value) for value in (self.policy_loss, self.value_loss, self.grad_norm))


@dataclass(frozen=True, slots=True)
class FinalPass:
    """The whole rollout under the policy after the last optimizer step; sums over samples of all ranks.

    Attributes:
        kl: the reported KL's statistics.
        entropy: per head, sum over active decisions, nats.
        entropy_normalised: per head, sum over active decisions with a choice.
        choices: per head, active decisions with a choice.
        clipped: per head, active decisions with ``|ratio_h - 1| > clip_range``.
        ratio_max: largest joint ratio.
        clamped: active log-ratios beyond +-20.
        non_finite: active log-ratios that were NaN or Inf.
    """

    kl: KLStats
    entropy: tuple[float, ...]
    entropy_normalised: tuple[float, ...]
    choices: tuple[float, ...]
    clipped: tuple[float, ...]
    ratio_max: float | None
    clamped: int
    non_finite: int

    def heads(self, names: Sequence[str]) -> tuple[HeadStats, ...]:
        """One entry a head; what was not measured stays None."""
        return tuple(
            HeadStats(
                name=name,
                kl=kl,
                decisions=int(n),
                weight=weight,
                share=share,
                entropy=_ratio(entropy, n),
                entropy_normalised=_ratio(normalised, choices),
                clip_fraction=_ratio(clipped, n),
            )
            for name, kl, n, weight, share, entropy, normalised, choices, clipped in zip(
                names,
                self.kl.by_head,
                self.kl.decisions,
                self.kl.weights,
                self.kl.shares,
                self.entropy,
                self.entropy_normalised,
                self.choices,
                self.clipped,
                strict=True,
            )
        )


@dataclass(frozen=True, slots=True)
class RolloutReport:
    """What the rollout showed before any step."""

    steps: int
    steps_forced: int
    advantage_mean: float | None
    advantage_std: float | None
    explained_variance: float | None


@dataclass(slots=True)
class UpdateRecord:
    """Everything one update leaves behind, collected while it runs.

    Attributes:
        update_id: counts from 1 over all attempts of a run.
        names: the heads.
        epochs_planned: passes over the rollout planned.
        minibatches_planned: optimizer steps planned.
    """

    update_id: int
    names: tuple[str, ...]
    epochs_planned: int
    minibatches_planned: int
    outcome: Outcome = "completed"
    reason: str = ""
    non_finite: int = 0
    steps_taken: int = 0
    early_stop: EarlyStop | None = None
    rollout: RolloutReport | None = None
    final: FinalPass | None = None
    epochs: list[KLStats] = field(default_factory=list)
    in_loop: list[float] = field(default_factory=list)
    first: float | None = None
    _policy_losses: list[float] = field(default_factory=list)
    _value_losses: list[float] = field(default_factory=list)
    _clip_fractions: list[float] = field(default_factory=list)
    _grad_norms: list[float] = field(default_factory=list)
    _epoch_open: bool = False

    def skip(self, reason: str, *, non_finite: int = 0) -> None:
        """No optimizer step was possible."""
        self.outcome, self.reason = "skipped", reason
        self.non_finite += non_finite

    def begin_epoch(self) -> None:
        """Another pass over the rollout begins."""
        self._epoch_open = False

    def saw(self, seen: MinibatchReport) -> None:
        """One minibatch was measured, before its step."""
        value = seen.kl.weighted
        if not self.epochs:
            self.first = value
        if value is not None:
            self.in_loop.append(value)
        if self._epoch_open:
            self.epochs[-1] += seen.kl
        else:
            self.epochs.append(seen.kl)
            self._epoch_open = True
        self.non_finite += seen.non_finite

    def stepped(self, seen: MinibatchReport) -> None:
        """That minibatch's optimizer step was taken."""
        self.steps_taken += 1
        self._policy_losses.append(seen.policy_loss)
        self._value_losses.append(seen.value_loss)
        self._grad_norms.append(seen.grad_norm)
        if seen.clip_fraction is not None:
            self._clip_fractions.append(seen.clip_fraction)

    def stop(self, *, epoch: int, minibatch: int, value: float, monitor: StopMonitor) -> None:
        """The KL went beyond the limit."""
        pooled = monitor.pooled
        head = pooled.leading_head(self.names) if pooled is not None else None
        limit = monitor.threshold if monitor.threshold is not None else math.nan
        self.early_stop = EarlyStop(epoch=epoch, minibatch=minibatch, value=value, threshold=limit, head=head)
        self.outcome = "early_stopped"
        self.reason = f"KL ({monitor.on}) {value:.6g} > {limit:.6g} at epoch {epoch}, minibatch {minibatch}"

    def interrupt(self, reason: str) -> None:
        """Something other than the KL ended the update."""
        self.outcome = "interrupted" if self.steps_taken else "skipped"
        self.reason = reason

    def payload(
        self,
        *,
        env_steps: int,
        device: str,
        kl_estimator: str,
        monitor: StopMonitor,
        target_kl: float,
        learning_rate: float,
        clip_range: float,
        episodes: EpisodeSummary,
    ) -> PPOUpdatePayload:
        """The payload, without its level and times, which the emitter knows."""
        final, rollout = self.final, self.rollout
        kl = final.kl if final is not None else None
        decisions = sum(final.choices) if final is not None else 0.0
        return PPOUpdatePayload(
            update_id=self.update_id,
            env_steps=env_steps,
            outcome=self.outcome,
            reason=self.reason,
            device=device,
            kl_divergence=kl.weighted if kl is not None else None,
            kl_joint=kl.joint if kl is not None else None,
            kl_first_minibatch=self.first,
            kl_mean=_mean(self.in_loop),
            kl_max=_max(self.in_loop),
            kl_last=self.in_loop[-1] if self.in_loop else None,
            kl_by_epoch=tuple(value for item in self.epochs if (value := item.weighted) is not None),
            kl_estimator=kl_estimator,
            target_kl=target_kl or None,
            stop_threshold=monitor.threshold,
            stop_on=monitor.on,
            stop_rule=monitor.rule,
            stop_window=monitor.window,
            early_stop=self.early_stop,
            ratio_max=final.ratio_max if final is not None else None,
            clamped=final.clamped if final is not None else 0,
            non_finite=self.non_finite + (final.non_finite if final is not None else 0),
            heads=final.heads(self.names) if final is not None else tuple(HeadStats(name=name) for name in self.names),
            epochs=len(self.epochs),
            epochs_planned=self.epochs_planned,
            minibatches=self.steps_taken,
            minibatches_planned=self.minibatches_planned,
            steps=rollout.steps if rollout is not None else 0,
            steps_forced=rollout.steps_forced if rollout is not None else 0,
            policy_loss=_mean(self._policy_losses),
            value_loss=_mean(self._value_losses),
            entropy=_ratio(sum(final.entropy), final.kl.steps) if final is not None else None,
            entropy_normalised=_ratio(sum(final.entropy_normalised), decisions) if final is not None else None,
            clip_fraction=_mean(self._clip_fractions),
            explained_variance=rollout.explained_variance if rollout is not None else None,
            grad_norm=_mean(self._grad_norms),
            grad_norm_max=_max(self._grad_norms),
            advantage_mean=rollout.advantage_mean if rollout is not None else None,
            advantage_std=rollout.advantage_std if rollout is not None else None,
            learning_rate=learning_rate,
            clip_range=clip_range,
            episodes=len(episodes.returns),
            return_mean=mean(episodes.returns),
            return_min=min(episodes.returns, default=None),
            return_max=max(episodes.returns, default=None),
            episode_length_mean=mean(episodes.lengths),
            return_mean_100=episodes.mean_100,
        )


def metrics_of(payload: PPOUpdatePayload) -> dict[str, float]:
    """The payload's numbers as a flat dict: ``approx_kl`` first, then every numeric field that was measured.

    ``approx_kl`` is ``kl_divergence`` under its usual name; head numbers are ``<name>/kl`` and so on. A number that
    was not measured is absent, so a skipped update has no ``approx_kl``.
    """
    metrics: dict[str, float] = {}
    if payload.kl_divergence is not None:
        metrics["approx_kl"] = payload.kl_divergence
    for item in fields(payload):
        value = getattr(payload, item.name)
        if isinstance(value, int | float):
            metrics[item.name] = float(value)
    for head in payload.heads:
        for item in fields(head):
            value = getattr(head, item.name)
            if isinstance(value, int | float):
                metrics[f"{head.name}/{item.name}"] = float(value)
    return metrics


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _max(values: Sequence[float]) -> float | None:
    """The largest value; NaN if any is NaN, since max() would depend on the order."""
    if any(math.isnan(value) for value in values):
        return math.nan
    return max(values, default=None)

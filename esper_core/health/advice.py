"""What to do about an update or a run: one suggestion, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from esper_core.health.kinds import VerdictKind
from esper_core.health.levels import HealthLevel

__all__ = ["Suggestion", "head_suggestion", "state_suggestion", "suggestion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One piece of advice. ``cause`` says what was seen, ``action`` what to try."""

    cause: str
    action: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.action}"


_STATE_SUGGESTIONS: Final = {
    VerdictKind.CRASHED: Suggestion(
        cause="the trainer ended without a word", action="see trainer.log, then esper ppo --resume RUN"
    ),
    VerdictKind.STALE: Suggestion(cause="no sign of life", action="look for the trainer's process where it runs"),
    VerdictKind.STALLED: Suggestion(cause="alive without progress", action="see trainer.log and the environment"),
    VerdictKind.LOSSY: Suggestion(
        cause="events were lost", action="see the sink; esper replay RUN --to SINK sends what the journal holds"
    ),
}


def suggestion(
    *,
    level: HealthLevel,
    early_stopped: bool = False,
    stopped_epoch: int | None = None,
    epochs_planned: int = 1,
    learning_rate: float | None = None,
    head: str | None = None,
    share: float | None = None,
) -> Suggestion | None:
    """One suggestion for an update, or None when there is nothing to do.

    Args:
        level: the update's own level (``classify_kl``).
        early_stopped: whether the update ended before its planned minibatches.
        stopped_epoch: the epoch of the stop, counted from 1.
        epochs_planned: passes over the rollout that were planned.
        learning_rate: the rate in force, to name a number instead of a direction.
        head: the head that carries most of the KL.
        share: that head's share of the KL, 0..1; named when it carries more than half alone.
    """
    if level is HealthLevel.NON_FINITE:
        return Suggestion(
            cause="NaN or Inf in the update",
            action="check rewards and observations, then resume from the last checkpoint with a lower learning_rate",
        )
    lower_rate = "lower learning_rate" if learning_rate is None else f"lower learning_rate to {learning_rate / 3:.2g}"
    subject = f"head {head} drifts" if head is not None and (share or 0.0) > 0.5 else "the policy drifts"
    if level is HealthLevel.CRITICAL:
        if epochs_planned > 1 and not early_stopped:
            return Suggestion(cause=f"{subject} too fast", action=f"{lower_rate}, or set target_kl to stop in time")
        return Suggestion(cause=f"{subject} too fast", action=f"{lower_rate} or use larger minibatches")
    if early_stopped and (stopped_epoch or 1) <= 1:
        return Suggestion(
            cause="stopped within the first epoch",
            action=f"{lower_rate}, use larger minibatches, or raise target_kl",
        )
    if early_stopped:
        fewer = max(1, (stopped_epoch or epochs_planned) - 1)
        return Suggestion(cause=f"stopped in epoch {stopped_epoch}", action=f"{lower_rate}, or plan epochs = {fewer}")
    if level is HealthLevel.WARNING:
        if epochs_planned > 1:
            return Suggestion(cause=f"{subject}", action=f"{lower_rate} or use fewer epochs than {epochs_planned}")
        return Suggestion(cause=f"{subject}", action=f"{lower_rate} or use larger minibatches")
    return None


def head_suggestion(head: str, *, learning_rate: float | None = None, others_calm: bool = True) -> Suggestion:
    """What to do about one head at CRITICAL while the KL of all is below it.

    Args:
        head: its name.
        learning_rate: the rate in force, to name a number instead of a direction.
        others_calm: whether the KL of all heads together is calm.
    """
    rate = "lower learning_rate" if learning_rate is None else f"lower learning_rate to {learning_rate / 3:.2g}"
    if not others_calm:
        return Suggestion(cause=f"head {head} drifts too fast", action=f"{rate}, or plan more rollout_steps")
    return Suggestion(
        cause=f"head {head} drifts too fast behind calm ones",
        action=f"plan more rollout_steps, so that it decides more often, or {rate}",
    )


def state_suggestion(kind: VerdictKind) -> Suggestion | None:
    """One suggestion for what is wrong with the run itself rather than with its policy; None when nothing is."""
    return _STATE_SUGGESTIONS.get(kind)

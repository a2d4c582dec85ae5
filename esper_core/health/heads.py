"""The level of each head, and the policy's level: one pure rule over the judged window."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from esper_core.averages import mean, weighted_mean
from esper_core.health.levels import HealthLevel, classify_kl, update_level, verdict_level
from esper_core.health.limits import DEFAULT_KL_LIMITS, HEALTH_WINDOW, KLLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "HEAD_DECISIONS",
    "HeadLevel",
    "HeadSeen",
    "PolicyLevel",
    "UpdateSeen",
    "head_levels",
    "level_under",
    "policy_level",
]

HEAD_DECISIONS: Final = 64
"""Decisions within the judged window from which on a head has a level of its own: fewer say nothing yet."""


class HeadSeen(Protocol):
    """What a head's level needs of one update; ``HeadStats`` has it."""

    @property
    def name(self) -> str:
        """Of the head."""

    @property
    def kl(self) -> float | None:
        """Mean KL per active decision, nats."""

    @property
    def decisions(self) -> int:
        """Active decisions."""


class UpdateSeen(Protocol):
    """What the policy's level needs of one update; ``PPOUpdatePayload`` has it."""

    @property
    def health(self) -> HealthLevel:
        """The level that it was recorded with, under the limits of its own attempt."""

    @property
    def kl_divergence(self) -> float | None:
        """Nats per decision; None when not measured."""

    @property
    def kl_joint(self) -> float | None:
        """Nats per unforced step; None when not measured."""

    @property
    def kl_measured(self) -> str:
        """When the KL was measured."""

    @property
    def non_finite(self) -> int:
        """Values that were NaN or Inf."""

    @property
    def steps(self) -> int:
        """Unforced environment steps."""

    @property
    def steps_forced(self) -> int:
        """Steps on which nothing was decided."""

    @property
    def heads(self) -> Sequence[HeadSeen]:
        """One entry a head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLevel:
    """One head over the judged window.

    Attributes:
        name: of the head.
        kl: nats per decision, pooled: ``sum(num_h) / sum(n_h)``.
        decisions: that it is a mean of.
        level: UNKNOWN below 64 decisions.
    """

    name: str
    kl: float
    decisions: int
    level: HealthLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLevel:
    """The policy after an update. What only a reader asks for is worked out when it is asked for.

    Attributes:
        level: the worst of the last three updates' levels; at least WARNING while a head is at CRITICAL.
        levels: of each of these updates under the limits in force, oldest first.
        head: the worst head at CRITICAL; None when there is none, or only one head at all.
        updates: these updates, oldest first.
        limits: in force.
    """

    level: HealthLevel = HealthLevel.UNKNOWN
    levels: tuple[HealthLevel, ...] = ()
    head: HeadLevel | None = None
    updates: Sequence[UpdateSeen] = ()
    limits: KLLimits = DEFAULT_KL_LIMITS

    @property
    def kl(self) -> float | None:
        """The judged KL of all heads together, nats, pooled over these updates; None when not measured."""
        return _pooled_kl(self.updates, self.limits)

    @property
    def heads(self) -> tuple[HeadLevel, ...]:
        """Every head over these updates."""
        return head_levels(self.updates, self.limits)

    @property
    def forced(self) -> bool:
        """Every step of these updates was forced: nothing was decided, so nothing could be measured."""
        return bool(self.levels) and all(item.steps_forced and not item.steps for item in self.updates)

    @property
    def blamed(self) -> HeadLevel | None:
        """The head at CRITICAL that a warning is about: verdict, advice and panels name it, and no other.

        None where the KL of all heads together is at critical itself.
        """
        return self.head if self.level is HealthLevel.WARNING else None


def level_under(update: UpdateSeen, limits: KLLimits) -> HealthLevel:
    """An update's level under the limits in force, which may be others than those that it was recorded under.

    NON_FINITE hangs on no limit: an update that was recorded so stays so.
    """
    if update.health is HealthLevel.NON_FINITE:
        return HealthLevel.NON_FINITE
    return update_level(
        update.kl_divergence,
        kl_joint=update.kl_joint,
        non_finite=update.non_finite,
        kl_measured=update.kl_measured,
        limits=limits,
    )


def head_levels(updates: Sequence[UpdateSeen], limits: KLLimits = DEFAULT_KL_LIMITS) -> tuple[HeadLevel, ...]:
    """Every head's level over the last three updates, in the order of the newest that has heads.

    A value that is not finite is left out, since it makes its update non-finite; so is an update that has no level.

    Args:
        updates: oldest first.
        limits: of the run. They are the same for a head, whose decision and step are one.
    """
    moved: defaultdict[str, float] = defaultdict(float)
    counted: defaultdict[str, int] = defaultdict(int)
    names: list[str] = []
    for update in updates[-HEALTH_WINDOW:]:
        if level_under(update, limits) is HealthLevel.UNKNOWN:
            continue
        names = [head.name for head in update.heads] or names
        for head in update.heads:
            if head.kl is not None and math.isfinite(head.kl):
                moved[head.name] += head.kl * head.decisions
                counted[head.name] += head.decisions
    found = []
    for name in names:
        decisions = counted[name]
        kl = moved[name] / decisions if decisions else 0.0
        level = classify_kl(kl, limits) if decisions >= HEAD_DECISIONS else HealthLevel.UNKNOWN
        found.append(HeadLevel(name=name, kl=kl, decisions=decisions, level=level))
    return tuple(found)


def policy_level(updates: Sequence[UpdateSeen], limits: KLLimits = DEFAULT_KL_LIMITS) -> PolicyLevel:
    """The policy's level: the worst of the last three updates, and no calmer than a head at CRITICAL allows.

    The weighted mean hides one head: 1000 decisions at 0.004 beside 100 at 0.06 are 0.009 together. With one head
    there is nothing to hide.

    Args:
        updates: effective updates, oldest first; three are enough. Each is levelled anew: a run that was resumed with
            other limits is judged by those of its newest attempt.
        limits: of the run, in force now.
    """
    window = updates[-HEALTH_WINDOW:]
    levels = tuple([level_under(update, limits) for update in window])
    level = verdict_level(levels)
    head = _critical_head(window, limits)
    if head is not None and level.severity < HealthLevel.WARNING.severity:
        level = HealthLevel.WARNING
    return PolicyLevel(level=level, levels=levels, head=head, updates=window, limits=limits)


def _critical_head(updates: Sequence[UpdateSeen], limits: KLLimits) -> HeadLevel | None:
    """The worst head at CRITICAL among several. Called for every update, so a calm window costs little."""
    floor = limits.critical * (1 - 1e-9)  # no mean is above its largest value, but for rounding
    if not any(head.kl is not None and head.kl >= floor for update in updates for head in update.heads):
        return None
    heads = head_levels(updates, limits)
    critical = [head for head in heads if head.level is HealthLevel.CRITICAL] if len(heads) > 1 else []
    return max(critical, key=lambda head: head.kl, default=None)


def _pooled_kl(updates: Sequence[UpdateSeen], limits: KLLimits) -> float | None:
    """The judged KL over these updates together: by decisions, or by unforced steps for the joint one.

    Updates that say neither count alike. As for the heads, an update without a level and a value that is not finite
    are left out.
    """
    known: list[tuple[float, int]] = []
    for update in updates:
        joint = limits.on == "joint"
        kl = update.kl_joint if joint else update.kl_divergence
        count = update.steps if joint else sum(head.decisions for head in update.heads)
        if kl is not None and math.isfinite(kl) and level_under(update, limits) is not HealthLevel.UNKNOWN:
            known.append((kl, count))
    total = sum(count for _, count in known)
    if total:
        return weighted_mean([kl for kl, _ in known], [count for _, count in known])
    return mean([kl for kl, _ in known]) if known else None

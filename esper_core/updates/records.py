"""What a loop hands to the recorder: sums, settings, and what a minibatch, the final pass and episodes showed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from esper_core.events import Granularity, HeadKind
    from esper_core.kl import KLStats, StopOn, StopRule

__all__ = ["EpisodeSummary", "FinalPass", "Mean", "Measured", "MinibatchSeen", "UpdateSettings", "finite_mean"]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean before its division: add totals and counts over minibatches, chunks and ranks.

    Attributes:
        total: the sum.
        count: how many it is a sum of.
    """

    total: float
    count: float

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self.total / self.count if self.count else None

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    @classmethod
    def pooled(cls, parts: Sequence[Mean]) -> Mean:
        """All parts added up."""
        return cls(sum(part.total for part in parts), sum(part.count for part in parts))


Measured: TypeAlias = Mean | float | None
"""What a field of the payload is given: a mean, a number (ints stay ints), or None when it was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """What all updates of a loop have in common.

    Attributes:
        heads: names, in the policy's order.
        target_kl: nats; 0 switches early stopping off.
        stop_on: the KL that the limit is on.
        stop_rule: which minibatches are compared, and when; see ``StopMonitor``.
        kl_estimator: ``k3`` or ``exact``, of the reported KL.
        clip_range: of the surrogate.
        device: that the update runs on.
        head_kinds: the distribution of each head, parallel to ``heads``; empty when all are categorical.
        granularity: whether a step is an environment step, or a sequence of tokens.
        library: that runs the loop; empty for Esper's own.
        library_kl_name: what it calls its own KL, given as ``library_kl`` among the measured fields.
    """

    heads: tuple[str, ...]
    target_kl: float = 0.0
    stop_on: StopOn = "weighted"
    stop_rule: StopRule = "pooled"
    kl_estimator: str = "k3"
    clip_range: float | None = None
    device: str = "cpu"
    head_kinds: tuple[HeadKind, ...] = ()
    granularity: Granularity = "step"
    library: str = ""
    library_kl_name: str = ""

    @property
    def kinds(self) -> tuple[HeadKind, ...]:
        """The distribution of each head."""
        usual: HeadKind = "categorical"
        return self.head_kinds or (usual,) * len(self.heads)


@dataclass(frozen=True, slots=True)
class MinibatchSeen:
    """What one minibatch showed before its optimizer step.

    Attributes:
        kl: its statistics.
        shown: values under the names of the payload's fields; reported is each one's mean over the minibatches whose
            step was taken. NaN and Inf among them are counted.
        pooled: means before their division, under the same names; reported is the mean over all minibatches seen, the
            one that crossed the limit among them.
        by_head: likewise, one mean a head, under the names of the fields of ``HeadStats``.
    """

    kl: KLStats
    shown: Mapping[str, float | None] = field(default_factory=dict)
    pooled: Mapping[str, Mean] = field(default_factory=dict)
    by_head: Mapping[str, Sequence[Mean]] = field(default_factory=dict)

    @property
    def non_finite(self) -> int:
        """Values shown that were NaN or Inf."""
        return len([value for value in self.shown.values() if value is not None and not math.isfinite(value)])


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalPass:
    """The whole rollout under the policy after the last optimizer step, over samples of all ranks.

    Attributes:
        kl: the reported KL's statistics.
        by_head: one mean a head, under the names of the fields of ``HeadStats``.
        measured: everything else, under the names of the payload's fields.
        non_finite: active log-ratios that were NaN or Inf.
    """

    kl: KLStats
    by_head: Mapping[str, Sequence[Mean]] = field(default_factory=dict)
    measured: Mapping[str, Measured] = field(default_factory=dict)
    non_finite: int = 0


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """Episodes that finished during one rollout.

    Attributes:
        returns: undiscounted return of each.
        lengths: environment steps of each.
        mean_100: mean return of the last 100 episodes of the run; None before the first.
        total: episodes of the run so far, over all attempts; None when nobody counts them.
    """

    returns: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()
    mean_100: float | None = None
    total: int | None = None

    def measured(self) -> dict[str, Measured]:
        """The payload's fields."""
        return {
            "episodes": len(self.returns),
            "run_episodes": self.total,
            "return_mean": finite_mean(self.returns),
            "return_min": min(self.returns, default=None),
            "return_max": max(self.returns, default=None),
            "episode_length_mean": finite_mean(self.lengths),
            "return_mean_100": self.mean_100,
        }


def finite_mean(values: Iterable[float]) -> float | None:
    """Mean of the finite values; None for none. NaN returns are reported by the update's own counter."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None

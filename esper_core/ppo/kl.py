"""KL(old || new) of a multi-head policy: sufficient statistics, and the rule that stops an update.

Everything that is reported or compared is a ratio of sums. The sums are additive over minibatches, windows and
ranks; no division happens before a number is shown or compared. See docs/explanation/kl.md.

The estimator is Schulman's k3 (http://joschu.net/blog/kl-approx.html): with r = log new(a|s) - log old(a|s) and
a drawn from the old policy, E[exp(r) - 1 - r] = KL(old || new), and every sample is >= 0.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

__all__ = [
    "LOG_RATIO_LIMIT",
    "STOP_FACTOR",
    "KLStats",
    "StopMonitor",
    "StopOn",
    "StopRule",
    "exact_sums",
    "k3_sums",
    "outlier_sums",
]

StopRule = Literal["pooled", "minibatch", "epoch"]
StopOn = Literal["weighted", "joint"]

LOG_RATIO_LIMIT: Final = 20.0
"""Nats. exp(20) = 4.9e8 is far beyond any sane update, and its square still fits float32."""
STOP_FACTOR: Final = 1.5
"""Spinning Up's factor between ``target_kl`` and the stop."""
MAX_WINDOW: Final = 8
"""Most minibatches that the pooled rule looks back on."""


def k3_sums(log_ratio: Tensor, active: Tensor) -> Tensor:
    """Sums of k3 and of decisions, for all heads at once.

    Args:
        log_ratio: float (B, heads), log new - log old, nats. Values of inactive decisions may be anything.
        active: bool (B, heads), the causal mask on unforced steps.

    Returns:
        float64 (2 * heads): numerators, then active decisions. A NaN stays NaN in its head's numerator.
    """
    # Selecting before exp, not multiplying after: 0 * nan and 0 * inf are nan.
    r = torch.where(active, log_ratio, 0.0).clamp_(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    # expm1(x) - x keeps its sign where exp(x) - 1 - x cancels to negative values (44 % of samples at x ~ 1e-4).
    k3 = torch.expm1(r) - r
    return torch.cat((k3.sum(0, dtype=torch.float64), active.sum(0, dtype=torch.float64)))


def outlier_sums(log_ratio: Tensor, active: Tensor) -> Tensor:
    """float64 (2): active log-ratios clamped to +-20, and active ones that are NaN or Inf. Counted, never hidden."""
    r = torch.where(active, log_ratio, 0.0)
    finite = r.isfinite()
    return torch.stack(((finite & (r.abs() > LOG_RATIO_LIMIT)).sum(), (~finite).sum())).double()


def exact_sums(log_old: Tensor, log_new: Tensor, active: Tensor) -> Tensor:
    """Numerators of the categorical KL itself, summed over all choices instead of estimated from samples.

    Args:
        log_old: float (B, heads, width), the old policy's log-probabilities; illegal choices hold a large
            negative finite number.
        log_new: likewise, of the new policy.
        active: bool (B, heads).

    Returns:
        float64 (heads): the sums over active decisions.
    """
    kl = (log_old.exp() * (log_old - log_new)).sum(-1)
    # A sum of rounded products can fall below 0 by an ulp where both policies agree.
    return torch.where(active, kl.clamp_min(0.0), 0.0).sum(0, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class KLStats:
    """Sufficient statistics of one set of samples, on the host. Add them to pool.

    Attributes:
        numerators: sum of k3 (or exact KL) per head, nats.
        decisions: active decisions per head.
        steps: unforced steps.
    """

    numerators: tuple[float, ...]
    decisions: tuple[float, ...]
    steps: float

    def __add__(self, other: KLStats) -> KLStats:
        return KLStats(
            tuple(a + b for a, b in zip(self.numerators, other.numerators, strict=True)),
            tuple(a + b for a, b in zip(self.decisions, other.decisions, strict=True)),
            self.steps + other.steps,
        )

    @classmethod
    def pooled(cls, parts: Iterable[KLStats]) -> KLStats | None:
        """All parts added up; None for none."""
        total: KLStats | None = None
        for part in parts:
            total = part if total is None else total + part
        return total

    @property
    def weighted(self) -> float | None:
        """KL per head-decision, the record's ``approx_kl``: sum(w_h KL_h) / sum(w_h) = sum(num_h) / sum(n_h)."""
        decisions = sum(self.decisions)
        return sum(self.numerators) / decisions if decisions else None

    @property
    def joint(self) -> float | None:
        """KL per unforced environment step: sum(num_h) / T, what other libraries' ``target_kl`` means."""
        return sum(self.numerators) / self.steps if self.steps else None

    @property
    def by_head(self) -> tuple[float | None, ...]:
        """Mean KL per active decision of each head; None for a head without decisions."""
        return tuple(num / n if n else None for num, n in zip(self.numerators, self.decisions, strict=True))

    @property
    def weights(self) -> tuple[float | None, ...]:
        """``n_h / T`` of each head; None without steps."""
        return tuple(n / self.steps if self.steps else None for n in self.decisions)

    @property
    def shares(self) -> tuple[float | None, ...]:
        """Each head's share of the summed KL; None when the sum is 0."""
        total = sum(self.numerators)
        return tuple(num / total if total else None for num in self.numerators)

    def leading_head(self, names: Sequence[str]) -> str | None:
        """Name of the head with the largest numerator; None when nothing moved."""
        top = max(range(len(names)), key=lambda index: self.numerators[index])
        return names[top] if self.numerators[top] > 0 else None


class StopMonitor:
    """Decides when an update has moved the policy far enough.

    Args:
        target_kl: nats; 0 switches early stopping off.
        on: the KL that is compared.
        rule: ``pooled``: the last ``window`` minibatches together, before the optimizer step; ``minibatch``: each
            alone, before the step (Stable-Baselines3's); ``epoch``: the last one, after the epoch (CleanRL's).
        planned: optimizer steps planned, from which the window follows.
    """

    def __init__(self, *, target_kl: float, on: StopOn, rule: StopRule, planned: int) -> None:
        self.on: StopOn = on
        self.rule: StopRule = rule
        self.threshold = STOP_FACTOR * target_kl if target_kl > 0 else None
        # A fixed 8 would reach half an update back when only 16 minibatches are planned.
        self.window = min(max(planned // 16, 1), MAX_WINDOW) if rule == "pooled" else 1
        self._recent: deque[KLStats] = deque(maxlen=self.window)

    def add(self, stats: KLStats) -> None:
        """Take one minibatch's statistics in."""
        self._recent.append(stats)

    @property
    def pooled(self) -> KLStats | None:
        """The statistics under judgement."""
        return KLStats.pooled(self._recent)

    def before_step(self) -> float | None:
        """The KL that forbids the coming optimizer step, or None to go on."""
        return None if self.rule == "epoch" else self._exceeded()

    def after_epoch(self) -> float | None:
        """The KL that forbids another epoch, or None to go on."""
        return self._exceeded() if self.rule == "epoch" else None

    def _exceeded(self) -> float | None:
        if self.threshold is None:
            return None
        # Totals suffice here; pooling head by head is left to the stop itself.
        moved = sum(sum(part.numerators) for part in self._recent)
        count = sum(sum(part.decisions) if self.on == "weighted" else part.steps for part in self._recent)
        if not count:
            return None
        value = moved / count
        # "not <=" and not ">": a NaN must stop the update, not slip through.
        return value if not value <= self.threshold else None

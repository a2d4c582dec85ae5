"""The rule that ends an update when its policy has moved far enough."""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

from esper_core.kl.stats import KLStats

__all__ = ["MAX_WINDOW", "STOP_FACTOR", "StopMonitor", "StopOn", "StopRule", "stop_threshold"]

StopRule = Literal["pooled", "minibatch", "epoch"]
StopOn = Literal["weighted", "joint"]

STOP_FACTOR: Final = 1.5
"""Spinning Up's factor between ``target_kl`` and the stop."""
MAX_WINDOW: Final = 8
"""Most minibatches that the pooled rule looks back on."""


def stop_threshold(target_kl: float) -> float | None:
    """The KL in nats above which an update stops; None when ``target_kl`` is 0, which switches stopping off."""
    return STOP_FACTOR * target_kl if target_kl > 0 else None


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
        self.threshold = stop_threshold(target_kl)
        # A fixed 8 would reach half an update back when only 16 minibatches are planned.
        self.window = min(max(planned // 16, 1), MAX_WINDOW) if rule == "pooled" else 1
        self._recent: deque[KLStats] = deque(maxlen=self.window)
        self._totals: deque[tuple[float, float, float]] = deque(maxlen=self.window)
        self._judged = self._joint_exceeded = False

    def add(self, stats: KLStats) -> None:
        """Take one minibatch's statistics in."""
        self._recent.append(stats)
        self._totals.append((sum(stats.numerators), sum(stats.decisions), stats.steps))

    @property
    def pooled(self) -> KLStats | None:
        """The statistics under judgement."""
        return KLStats.pooled(self._recent)

    @property
    def joint_would_stop(self) -> bool | None:
        """Whether the same rule, on the joint KL, has forbidden a step so far; None when nothing was judged.

        The joint KL is at least the weighted one, so it is True wherever a weighted limit stopped.
        """
        return self._joint_exceeded if self._judged else None

    def before_step(self) -> float | None:
        """The KL that forbids the coming optimizer step, or None to go on."""
        return None if self.rule == "epoch" else self._exceeded()

    def after_epoch(self) -> float | None:
        """The KL that forbids another epoch, or None to go on."""
        return self._exceeded() if self.rule == "epoch" else None

    def _exceeded(self) -> float | None:
        if self.threshold is None or not self._totals:
            return None
        # Totals suffice here; pooling head by head is left to the stop itself.
        moved, decisions, steps = map(sum, zip(*self._totals, strict=True))
        joint = self._above(moved, steps)
        self._judged = self._judged or steps > 0
        self._joint_exceeded = self._joint_exceeded or joint is not None
        if self.on == "joint":
            return joint
        return self._above(moved, decisions)

    def _above(self, moved: float, count: float) -> float | None:
        """The mean, when it is above the limit."""
        if self.threshold is None or not count:
            return None
        value = moved / count
        # "not <=" and not ">": a NaN must stop the update, not slip through.
        return value if not value <= self.threshold else None

"""Sufficient statistics of the KL. Everything that is reported or compared is a ratio of sums.

The sums are additive over minibatches, windows and ranks; no division happens before a number is shown or compared.
See docs/explanation/kl.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["LOG_RATIO_LIMIT", "KLStats"]

LOG_RATIO_LIMIT: Final = 20.0
"""Nats. exp(20) = 4.9e8 is far beyond any sane update, and its square still fits float32."""


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
            tuple([a + b for a, b in zip(self.numerators, other.numerators, strict=True)]),
            tuple([a + b for a, b in zip(self.decisions, other.decisions, strict=True)]),
            self.steps + other.steps,
        )

    @classmethod
    def pooled(cls, parts: Iterable[KLStats]) -> KLStats | None:
        """All parts added up; None for none."""
        every = list(parts)
        if not every:
            return None
        return cls(
            tuple(map(sum, zip(*(part.numerators for part in every), strict=True))),
            tuple(map(sum, zip(*(part.decisions for part in every), strict=True))),
            sum(part.steps for part in every),
        )

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

"""From a loop's arrays to sums: the same sums as the agent's own, over the ranks' samples together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from esper_core.kl import KLStats
from esper_core.kl.numpy import k3_sums, outlier_sums
from esper_core.monitoring.distributions import are_distributions, compare
from esper_core.monitoring.inputs import Columns, Floats, Mask, column_of
from esper_core.monitoring.misuse import MisuseError
from esper_core.updates import FinalPass, Mean, Measured, MinibatchSeen

if TYPE_CHECKING:
    from esper_core.events import HeadKind
    from esper_core.monitoring.ranks import Ranks

__all__ = ["KL", "PolicyMove", "Sums", "final_pass", "kl_of", "read_move", "rollout_fields", "see"]

Sums = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class KL:
    """How far a policy moved, over samples of all ranks.

    Attributes:
        stats: the sums behind the numbers; add them to pool.
        clamped: active log-ratios beyond +-20, which were clamped.
        non_finite: active values that were NaN or Inf.
        ratio_max: largest joint probability ratio; None for exact values, which have no ratio, or without samples.
    """

    stats: KLStats
    clamped: int
    non_finite: int
    ratio_max: float | None

    @property
    def per_decision(self) -> float | None:
        """KL(old || new) per head-decision, nats; None without decisions."""
        return self.stats.weighted

    @property
    def joint(self) -> float | None:
        """KL(old || new) per step, summed over heads, nats: what other libraries call ``approx_kl``."""
        return self.stats.joint

    @property
    def by_head(self) -> tuple[float | None, ...]:
        """Per active decision of each head, nats."""
        return self.stats.by_head


@dataclass(frozen=True, slots=True)
class PolicyMove:
    """One call's arrays, checked and brought to (rows, columns).

    Attributes:
        values: log new - log old of each decision, or its exact KL; nats.
        exact: which of the two.
        active: the decisions that count: those with an effect and a choice.
        choices: legal options of each decision, or None.
        entropy: of each decision under the new policy, nats, or None.
        kinds: the distribution of each head where the input tells, or None.
        tokens: columns are tokens of one head.
    """

    values: Floats
    exact: bool
    active: Mask
    choices: Floats | None
    entropy: Floats | None
    kinds: tuple[HeadKind, ...] | None
    tokens: bool

    @property
    def unforced(self) -> Mask:
        """Bool (rows,): steps, or sequences, with at least one active decision."""
        on: Mask = np.any(self.active, axis=-1)
        return on

    def by_head(self, values: Any) -> NDArray[np.float64]:
        """Sums of values (rows, columns) over the active decisions of each head."""
        return _total(np.where(self.active, values, 0.0), tokens=self.tokens)


def read_move(
    columns: Columns,
    log_ratio: Any,
    *,
    old: Any,
    new: Any,
    kl: Any,
    mask: Any,
    causal: Any,
    choices: Any,
    entropy: Any = None,
) -> PolicyMove:
    """Check one call's arguments and bring them to one form. Raises MisuseError, which names the argument."""
    given = [name for name, value in (("log_ratio", log_ratio), ("kl", kl), ("old and new", old)) if value is not None]
    if (old is None) is not (new is None):
        raise MisuseError("new is given without old" if old is None else "old is given without new")
    if len(given) != 1:
        said = f"given are {', '.join(given)}" if given else "none is given"
        raise MisuseError(f"give one of: old and new log-probabilities, log_ratio, or kl ({said})")
    exact = kinds = None
    legal = None if choices is None else columns.arrange("choices", choices)
    shown = None if entropy is None else columns.arrange("entropy", entropy)
    if are_distributions(old) is not are_distributions(new):
        raise MisuseError("old and new must both be distributions, or both log-probabilities")
    if old is not None and are_distributions(old):
        exact = compare(old, new, columns.heads)
        values, kinds = exact.kl, exact.kinds
        legal = legal if legal is not None else exact.choices
        shown = shown if shown is not None else exact.entropy
    elif old is not None:
        before, after = columns.pair(old, new)
        values = after - before
    else:
        values = columns.arrange("log_ratio" if kl is None else "kl", log_ratio if kl is None else kl)
    if choices is not None and legal is not None and not np.all(legal >= 0):  # NaN is not
        raise MisuseError("choices must hold counts of legal options, from 0", hint="inf stands for a density")
    active = _active(columns, values.shape, mask=mask, causal=causal, legal=legal)
    for name, item in (("choices", legal), ("entropy", shown)):
        if item is not None and item.shape != values.shape:
            raise MisuseError(f"{name} has shape {item.shape}, the log-probabilities have {values.shape}")
    if kl is not None:
        _refuse_estimates(values[active])
    return PolicyMove(
        values=values,
        exact=kl is not None or exact is not None,
        active=active,
        choices=legal,
        entropy=shown,
        kinds=kinds,
        tokens=columns.tokens,
    )


_ROUNDING = 1e-3
"""How far below 0 an exact KL may round, nats."""


def _refuse_estimates(kl: Floats) -> None:
    """Refuse old - new of samples: those below 0 would count as 0, and the mean would be that of the others."""
    below = kl[kl < 0]
    if len(below) and below.min() < -_ROUNDING and -below.sum() > 0.1 * kl[kl > 0].sum():
        raise MisuseError(
            f"kl holds values down to {below.min():.3g}; an exact KL is never below 0",
            hint="a sample's difference of log-probabilities is no KL: give old= and new=, or log_ratio",
        )


def _active(columns: Columns, shape: tuple[int, ...], *, mask: Any, causal: Any, legal: Floats | None) -> Mask:
    """The decisions that count: ``mask`` as it is given, else causal ones with more than one legal choice."""
    if mask is not None:
        if causal is not None:
            raise MisuseError("give mask, or causal and choices: mask already says which decisions count")
        return columns.mask("mask", mask, shape)
    on = np.ones(shape, dtype=np.bool_) if causal is None else columns.mask("causal", causal, shape)
    return on if legal is None or legal.shape != shape else on & (legal > 1)


def _total(values: Any, *, tokens: bool) -> NDArray[np.float64]:
    total = values.sum(dtype=np.float64)[None] if tokens else values.sum(0, dtype=np.float64)
    found: NDArray[np.float64] = total
    return found


def _kl_sums(move: PolicyMove) -> Sums:
    """Numerators and decisions of every head, steps, and what was out of bounds."""
    decisions = _total(move.active, tokens=move.tokens)
    if move.exact:
        # A sum of rounded products can fall below 0 by an ulp where both policies agree.
        numerators = move.by_head(np.maximum(move.values, 0.0))
        clamped, non_finite = 0, int((move.active & ~np.isfinite(move.values)).sum())
    else:
        flat = move.values.reshape(-1, 1) if move.tokens else move.values
        active = move.active.reshape(flat.shape)
        numerators = k3_sums(flat, active)
        clamped, non_finite = outlier_sums(flat, active)
    counts = np.array([move.unforced.sum(), len(move.active), clamped, non_finite], dtype=np.float64)
    return {"kl": numerators, "decisions": decisions, "counts": counts}


def _stats(total: Sums) -> KLStats:
    return KLStats(tuple(total["kl"].tolist()), tuple(total["decisions"].tolist()), float(total["counts"][0]))


def _joint_log_ratio(move: PolicyMove) -> NDArray[np.float64]:
    joint: NDArray[np.float64] = np.where(move.active, move.values, 0.0).sum(-1, dtype=np.float64)
    return joint


def _ratio_max(move: PolicyMove, ranks: Ranks) -> float | None:
    """The largest joint ratio over all ranks; None when none has samples."""
    local = -math.inf
    if not move.exact and len(move.values):
        local = float(_joint_log_ratio(move).max())
    largest = ranks.largest(local)
    if largest == -math.inf:
        return None
    with np.errstate(over="ignore"):
        return float(np.exp(largest))


def kl_of(move: PolicyMove, ranks: Ranks) -> KL:
    """The KL alone."""
    total = ranks.total(_kl_sums(move))
    return KL(_stats(total), int(total["counts"][2]), int(total["counts"][3]), _ratio_max(move, ranks))


def see(move: PolicyMove, ranks: Ranks, *, clip_range: float | None, shown: dict[str, float | None]) -> MinibatchSeen:
    """One minibatch before its optimizer step."""
    parts = _kl_sums(move)
    clips = clip_range is not None and not move.exact
    if clips:
        with np.errstate(over="ignore", invalid="ignore"):
            outside = np.abs(np.expm1(_joint_log_ratio(move))) > clip_range
            parts["clipped"] = np.array([outside.sum()], dtype=np.float64)
            parts["head_clipped"] = move.by_head(np.abs(np.expm1(move.values)) > clip_range)
    total = ranks.total(parts)
    kl = _stats(total)
    if not clips:
        return MinibatchSeen(kl, shown)
    return MinibatchSeen(
        kl,
        shown,
        pooled={"clip_fraction": Mean(float(total["clipped"][0]), kl.steps)},
        by_head={"clip_fraction": tuple(map(Mean, total["head_clipped"].tolist(), kl.decisions))},
    )


def final_pass(move: PolicyMove, ranks: Ranks) -> FinalPass:
    """The whole rollout under the policy after the last step."""
    parts = _kl_sums(move)
    decisions = {"entropy": "decisions"}
    if move.entropy is not None:
        parts["entropy"] = move.by_head(move.entropy)
        if move.choices is not None:
            # A density has no number of choices: its entropy is not normalised and counts in no mean.
            finite = np.isfinite(move.choices)
            parts["entropy_normalised"] = move.by_head(
                np.where(finite, move.entropy / np.log(np.maximum(move.choices, 2.0)), 0.0)
            )
            parts["normalised_decisions"] = move.by_head(finite)
            decisions["entropy_normalised"] = "normalised_decisions"
    total = ranks.total(parts)
    kl, counts = _stats(total), total["counts"].tolist()
    ratio_max = _ratio_max(move, ranks)
    return FinalPass(
        kl=kl,
        by_head={
            name: tuple(map(Mean, total[name].tolist(), total[count].tolist()))
            for name, count in decisions.items()
            if name in total
        },
        measured={
            "steps": int(counts[0]),
            "steps_forced": int(counts[1] - counts[0]),
            "clamped": int(counts[2]),
            "ratio_max": ratio_max if counts[0] else None,
        },
        non_finite=int(counts[3]),
    )


def rollout_fields(
    move: PolicyMove, ranks: Ranks, *, advantages: Any, returns: Any, values: Any
) -> dict[str, Measured]:
    """What the rollout's arrays show: mean and spread of the advantages, and the share of the returns explained.

    Args:
        move: for which steps were unforced.
        ranks: all of them must give the same arguments.
        advantages: (rows,), before normalisation, or None.
        returns: (rows,), or None.
        values: (rows,), the old value estimates, or None.
    """
    unforced, rows = move.unforced, len(move.active)
    columns: Sums = {}
    if advantages is not None:
        columns["advantage"] = column_of("advantages", advantages, rows) * unforced
    if returns is not None:
        columns["return"] = column_of("returns", returns, rows)
        if values is not None:
            columns["residual"] = columns["return"] - column_of("values", values, rows)
    if not columns and ranks.world == 1:
        return {}
    # The layout is the same on every rank: one that gives less must not leave the others waiting.
    steps, samples, *sums = ranks.total(
        {"all": np.array([unforced.sum(), rows, *(_sum(columns.get(name)) for name in _ROLLOUT)], dtype=np.float64)}
    )["all"].tolist()
    over = dict(zip(_ROLLOUT, (steps, samples, samples), strict=True))
    means = {name: total / max(over[name], 1.0) for name, total in zip(_ROLLOUT, sums, strict=True)}
    squares = [
        0.0
        if (column := columns.get(name)) is None
        else float((np.square(column - means[name]) * (unforced if name == "advantage" else 1.0)).sum())
        for name in _ROLLOUT
    ]
    spread = dict(zip(_ROLLOUT, ranks.total({"all": np.array(squares, dtype=np.float64)})["all"].tolist(), strict=True))
    shown: dict[str, Measured] = {}
    if "advantage" in columns and steps:
        shown |= {"advantage_mean": means["advantage"], "advantage_std": math.sqrt(spread["advantage"] / steps)}
    if "residual" in columns and spread["return"] > 1e-12 * samples:
        shown["explained_variance"] = 1.0 - spread["residual"] / spread["return"]
    return shown


_ROLLOUT = ("advantage", "return", "residual")


def _sum(values: NDArray[np.float64] | None) -> float:
    return 0.0 if values is None else float(values.sum())

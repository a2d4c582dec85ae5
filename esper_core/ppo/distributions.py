"""What heads draw from: the distribution of each kind of head, all heads at once.

Categorical and Bernoulli heads choose; a Bernoulli is a choice of two whose first logit is 0. A Gaussian head draws
from a normal density with a standard deviation of its own, whatever the observation (Schulman et al. 2017,
arXiv:1707.06347, section 6.1, and Stable-Baselines3).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from esper_core.kl.torch import exact_categorical_sums, exact_gaussian_sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.ppo.heads import HeadLayout

__all__ = ["ILLEGAL", "Distribution", "Evaluation", "HeadDistributions", "masked_log_softmax"]

ILLEGAL: Final = -1e9
"""Log-probability of an illegal choice: its probability is exactly 0 and, unlike -inf, it makes no NaN downstream."""
_HALF_LOG_2PI: Final = 0.5 * math.log(2.0 * math.pi)
_LOG_2: Final = math.log(2.0)
_NODES: Final = 32
"""Points of the quadrature behind a squashed entropy: within 1e-3 nats for deviations up to 2."""


class Distribution(NamedTuple):
    """What every head draws from, at B observations.

    Attributes:
        log_probs: (B, heads that choose, width), of every choice; illegal ones hold a large negative number. None where
            no head chooses.
        mean: (B, Gaussian heads), before any squash; None without such heads.
        log_std: (Gaussian heads), likewise.
    """

    log_probs: Tensor | None
    mean: Tensor | None
    log_std: Tensor | None

    def rows(self, rows: slice) -> Distribution:
        """At some of the observations."""
        return Distribution(
            None if self.log_probs is None else self.log_probs[rows],
            None if self.mean is None else self.mean[rows],
            self.log_std,
        )

    @classmethod
    def joined(cls, parts: Sequence[Distribution]) -> Distribution:
        """Parts of one policy at one moment, one after another, in memory of their own."""
        log_probs = [part.log_probs for part in parts if part.log_probs is not None]
        means = [part.mean for part in parts if part.mean is not None]
        log_std = parts[0].log_std
        return cls(
            torch.cat(log_probs) if log_probs else None,
            torch.cat(means) if means else None,
            None if log_std is None else log_std.clone(),  # the optimizer steps in place
        )


class Evaluation(NamedTuple):
    """What the current policy says about actions that were taken.

    Attributes:
        log_prob: (B, heads), nats, of what each head took: of a Gaussian head a log-density.
        entropy: (B, heads), nats: over a head's legal choices, or differential of a Gaussian head.
        values: (B,), the value estimate.
        distribution: what each head draws from.
    """

    log_prob: Tensor
    entropy: Tensor
    values: Tensor
    distribution: Distribution


def masked_log_softmax(logits: Tensor, legal: Tensor | None) -> Tensor:
    """Log-probabilities over legal choices, ``ILLEGAL`` for the others. ``legal`` None: every choice is legal.

    A head without any legal choice holds ``ILLEGAL`` throughout and has no gradient.
    """
    if legal is None:
        return torch.log_softmax(logits, dim=-1)
    # The lowest number there is: no legal logit, however far it has drifted, falls below it. Selected again
    # afterwards, because a difference of two such numbers overflows to -inf, which makes NaN in an entropy.
    lowest = torch.finfo(logits.dtype).min
    return torch.where(legal, torch.log_softmax(torch.where(legal, logits, lowest), dim=-1), ILLEGAL)


class HeadDistributions(nn.Module):
    """Makes distributions of a network's outputs, and judges actions by them.

    Its one parameter, ``log_std`` (Gaussian heads), exists only where there are such heads.

    Args:
        layout: the heads.
        log_std_init: of every Gaussian head, nats.
        squash: Gaussian heads draw ``tanh`` of a normal sample; actions stay the samples before it. Densities are those
            of the squashed value in -1..1, so that scaling it to the environment's bounds changes no number.
    """

    _choosing: Tensor
    _dense: Tensor
    _logits: Tensor
    _nodes: Tensor
    _order: Tensor
    _weights: Tensor

    def __init__(self, layout: HeadLayout, *, log_std_init: float = 0.0, squash: bool = False) -> None:
        super().__init__()
        self.layout = layout
        self.squash = squash
        self._has_choices = bool(len(layout.choosing))
        self._has_bernoulli = "bernoulli" in layout.kinds
        # Buffers follow the policy to its device; none is part of a checkpoint.
        self.register_buffer("_choosing", layout.choosing.clone(), persistent=False)
        self.register_buffer("_dense", layout.dense.clone(), persistent=False)
        self.register_buffer("_order", layout.order.clone(), persistent=False)
        logits = layout.valid.clone()
        logits[[kind == "bernoulli" for kind in layout.kinds], 0] = False
        self.register_buffer("_logits", logits, persistent=False)
        self.log_std: nn.Parameter | None = None
        if len(layout.dense):
            self.log_std = nn.Parameter(torch.full((len(layout.dense),), log_std_init))
            # Probabilists' Hermite: the mean of f(z) over a standard normal z is sum(w f(x)).
            nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
            self.register_buffer("_nodes", torch.tensor(nodes, dtype=torch.float32), persistent=False)
            self.register_buffer(
                "_weights", torch.tensor(weights / weights.sum(), dtype=torch.float32), persistent=False
            )

    def distribution(self, outputs: Tensor, legal: Tensor | None) -> Distribution:
        """What each head draws from.

        Args:
            outputs: (B, heads, width): logits of the heads that choose; the mean of others in the first column.
            legal: bool (B or 1, heads, width), or None when nothing is ever illegal.
        """
        if self.log_std is None:
            return Distribution(masked_log_softmax(self._free(outputs), legal), None, None)
        mean = outputs[:, self._dense, 0]
        if not self._has_choices:
            return Distribution(None, mean, self.log_std)
        logits, legal = self._free(outputs)[:, self._choosing], None if legal is None else legal[..., self._choosing, :]
        return Distribution(masked_log_softmax(logits, legal), mean, self.log_std)

    def log_prob(self, distribution: Distribution, actions: Tensor) -> Tensor:
        """Of the actions taken (B, heads): log-probabilities and log-densities in nats, (B, heads)."""
        log_probs, mean, log_std = distribution
        chosen = density = None
        if log_probs is not None:
            taken = actions if mean is None else actions[:, self._choosing].long()
            chosen = log_probs.gather(-1, taken.unsqueeze(-1)).squeeze(-1)
        if mean is not None and log_std is not None:
            drawn = actions if log_probs is None else actions[:, self._dense]
            density = -0.5 * ((drawn - mean) * (-log_std).exp()).square() - log_std - _HALF_LOG_2PI
            if self.squash:
                density = density - _log_slope(drawn)
        return self._merged(chosen, density)

    def entropy(self, distribution: Distribution) -> Tensor:
        """Of each head, nats, (B, heads): differential for Gaussian heads, and then it may be negative."""
        log_probs, mean, log_std = distribution
        choices = density = None
        if log_probs is not None:
            # Illegal choices add exactly 0: exp(-1e9) is 0 and -1e9 is finite.
            choices = -(log_probs.exp() * log_probs).sum(-1)
        if mean is not None and log_std is not None:
            density = (0.5 + _HALF_LOG_2PI + log_std).expand_as(mean)
            if self.squash:
                # A change of variables adds the mean logarithm of its slope, which has no closed form.
                at = mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * self._nodes
                density = density + _log_slope(at) @ self._weights
        return self._merged(choices, density)

    def exact_kl_sums(self, old: Distribution, new: Distribution, active: Tensor) -> Tensor:
        """Sums of KL(old || new) over the active decisions (B, heads) of each head: float64 (heads).

        A squash moves both densities alike and leaves the KL as it is.
        """
        choices = gaussian = None
        if old.log_probs is not None and new.log_probs is not None:
            on = active if old.mean is None else active[:, self._choosing]
            choices = exact_categorical_sums(old.log_probs, new.log_probs, on)
        if old.mean is not None and old.log_std is not None and new.mean is not None and new.log_std is not None:
            on = active if old.log_probs is None else active[:, self._dense]
            std_old, std_new = old.log_std.double().exp(), new.log_std.double().exp()
            gaussian = exact_gaussian_sums(old.mean, std_old, new.mean, std_new, on)
        return self._merged(choices, gaussian)

    def _merged(self, choosing: Tensor | None, dense: Tensor | None) -> Tensor:
        """Values of the heads that choose (..., c) and of the dense ones (..., d), in the heads' order (..., heads).

        None for a kind of which there is no head.
        """
        if choosing is None or dense is None:
            only = choosing if dense is None else dense
            assert only is not None  # a layout has heads  # noqa: S101
            return only
        return torch.cat([choosing, dense], dim=-1)[..., self._order]

    def _free(self, outputs: Tensor) -> Tensor:
        """Logits, with 0 for the first choice of a Bernoulli."""
        return torch.where(self._logits, outputs, 0.0) if self._has_bernoulli else outputs


def _log_slope(drawn: Tensor) -> Tensor:
    """log(1 - tanh(x)^2), which cancels to -inf in its own form from x = 9 on."""
    return 2.0 * (_LOG_2 - drawn - nn.functional.softplus(-2.0 * drawn))

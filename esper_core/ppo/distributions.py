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
        log_probs: (B, heads that choose, width), of every choice; illegal ones hold a large negative number.
        mean: (B, Gaussian heads), before any squash.
        log_std: (Gaussian heads), likewise.
    """

    log_probs: Tensor
    mean: Tensor
    log_std: Tensor


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
    _weights: Tensor

    def __init__(self, layout: HeadLayout, *, log_std_init: float = 0.0, squash: bool = False) -> None:
        super().__init__()
        self.layout = layout
        self.squash = squash
        self._has_choices, self._has_density = bool(len(layout.choosing)), bool(len(layout.dense))
        self._mixed = self._has_choices and self._has_density
        self._has_bernoulli = "bernoulli" in layout.kinds
        # Buffers follow the policy to its device; none is part of a checkpoint.
        self.register_buffer("_choosing", layout.choosing.clone(), persistent=False)
        self.register_buffer("_dense", layout.dense.clone(), persistent=False)
        logits = layout.valid.clone()
        logits[[kind == "bernoulli" for kind in layout.kinds], 0] = False
        self.register_buffer("_logits", logits, persistent=False)
        if self._has_density:
            self.log_std = nn.Parameter(torch.full((len(layout.dense),), log_std_init))
            # Probabilists' Hermite: the mean of f(z) over a standard normal z is sum(w f(x)).
            nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
            self.register_buffer("_nodes", torch.tensor(nodes, dtype=torch.float32), persistent=False)
            self.register_buffer(
                "_weights", torch.tensor(weights / weights.sum(), dtype=torch.float32), persistent=False
            )
        else:
            self.register_parameter("log_std", None)

    def distribution(self, outputs: Tensor, legal: Tensor | None) -> Distribution:
        """What each head draws from.

        Args:
            outputs: (B, heads, width): logits of the heads that choose; the mean of others in the first column.
            legal: bool (B or 1, heads, width), or None when nothing is ever illegal.
        """
        if not self._has_density:
            return Distribution(masked_log_softmax(self._free(outputs), legal), outputs[:, :0, 0], outputs.new_zeros(0))
        mean = outputs[:, self._dense, 0]
        if not self._has_choices:
            return Distribution(outputs[:, :0], mean, self.log_std)
        logits, legal = self._free(outputs)[:, self._choosing], None if legal is None else legal[..., self._choosing, :]
        return Distribution(masked_log_softmax(logits, legal), mean, self.log_std)

    def log_prob(self, distribution: Distribution, actions: Tensor) -> Tensor:
        """Of the actions taken (B, heads): log-probabilities and log-densities in nats, (B, heads)."""
        if not self._has_density:
            return distribution.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        if not self._has_choices:
            return self._log_density(distribution, actions)
        taken = actions[:, self._choosing].long().unsqueeze(-1)
        chosen = distribution.log_probs.gather(-1, taken).squeeze(-1)
        return self.layout.merged(chosen, self._log_density(distribution, actions[:, self._dense]))

    def entropy(self, distribution: Distribution) -> Tensor:
        """Of each head, nats, (B, heads): differential for Gaussian heads, and then it may be negative."""
        if not self._has_choices:
            return self._differential(distribution)
        log_probs = distribution.log_probs
        # Illegal choices add exactly 0: exp(-1e9) is 0 and -1e9 is finite.
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return self.layout.merged(entropy, self._differential(distribution)) if self._has_density else entropy

    def sample(self, distribution: Distribution, gumbel: Tensor | None, normal: Tensor | None) -> Tensor:
        """One action of each observation, (B, heads) of the layout's dtype.

        Args:
            distribution: what is drawn from.
            gumbel: standard Gumbel noise (B, heads that choose, width); None takes the likeliest choice.
            normal: standard normal noise (B, Gaussian heads); None takes the mean.
        """
        chosen = drawn = None
        if self._has_choices:
            log_probs = distribution.log_probs
            chosen = (log_probs if gumbel is None else log_probs + gumbel).argmax(-1)
        if self._has_density:
            drawn = distribution.mean
            if normal is not None:
                drawn = drawn + distribution.log_std.exp() * normal
            # NaN weights must not reach the environment before the update reports them.
            drawn = drawn.nan_to_num(nan=0.0)
        if chosen is None or drawn is None:
            only = chosen if drawn is None else drawn
            assert only is not None  # a layout has heads  # noqa: S101
            return only
        return self.layout.merged(chosen.to(drawn.dtype), drawn)

    def exact_kl_sums(self, old: Distribution, new: Distribution, active: Tensor) -> Tensor:
        """Sums of KL(old || new) over the active decisions (B, heads) of each head: float64 (heads).

        A squash moves both densities alike and leaves the KL as it is.
        """
        if not self._has_density:
            return exact_categorical_sums(old.log_probs, new.log_probs, active)
        gaussian = exact_gaussian_sums(
            old.mean,
            old.log_std.double().exp(),
            new.mean,
            new.log_std.double().exp(),
            active[:, self._dense],
        )
        if not self._has_choices:
            return gaussian
        choices = exact_categorical_sums(old.log_probs, new.log_probs, active[:, self._choosing])
        return self.layout.merged(choices, gaussian)

    def _free(self, outputs: Tensor) -> Tensor:
        """Logits, with 0 for the first choice of a Bernoulli."""
        return torch.where(self._logits, outputs, 0.0) if self._has_bernoulli else outputs

    def _log_density(self, distribution: Distribution, drawn: Tensor) -> Tensor:
        """Of what was drawn (B, Gaussian heads), after the squash if there is one."""
        z = (drawn - distribution.mean) * (-distribution.log_std).exp()
        density = -0.5 * z.square() - distribution.log_std - _HALF_LOG_2PI
        return density - _log_slope(drawn) if self.squash else density

    def _differential(self, distribution: Distribution) -> Tensor:
        """Entropy of each density, (B, Gaussian heads)."""
        normal = (0.5 + _HALF_LOG_2PI + distribution.log_std).expand_as(distribution.mean)
        if not self.squash:
            return normal
        # A change of variables adds the mean logarithm of its slope, which has no closed form.
        at = distribution.mean.unsqueeze(-1) + distribution.log_std.exp().unsqueeze(-1) * self._nodes
        return normal + _log_slope(at) @ self._weights


def _log_slope(drawn: Tensor) -> Tensor:
    """log(1 - tanh(x)^2), which cancels to -inf in its own form from x = 9 on."""
    return 2.0 * (_LOG_2 - drawn - nn.functional.softplus(-2.0 * drawn))

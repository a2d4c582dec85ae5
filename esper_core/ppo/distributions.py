"""What heads draw from: the distribution of each kind of head, all heads at once."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

__all__ = ["ILLEGAL", "Evaluation", "masked_log_softmax"]

ILLEGAL: Final = -1e9
"""Log-probability of an illegal choice: its probability is exactly 0 and, unlike -inf, it makes no NaN downstream."""


class Evaluation(NamedTuple):
    """What the current policy says about actions that were taken.

    Attributes:
        log_prob: (B, heads), nats, of each head's taken choice.
        entropy: (B, heads), nats, over each head's legal choices.
        values: (B,), the value estimate.
        log_probs: (B, heads, width), of every choice; illegal ones hold a large negative number.
    """

    log_prob: Tensor
    entropy: Tensor
    values: Tensor
    log_probs: Tensor


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

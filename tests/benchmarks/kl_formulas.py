"""The formulas of kl_of_libraries.py: Esper's, the closed form, and each library's, restated on a recorded update."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from kl_record import EPOCHS, Policy
from torch.distributions import Normal, kl_divergence

from esper_core.kl.torch import k3_sums

if TYPE_CHECKING:
    from kl_record import Check, Record
    from torch import Tensor

__all__ = [
    "esper_sums",
    "exact",
    "grpo",
    "k3",
    "last_epoch",
    "policy_kl",
    "rl_games_continuous",
    "rl_games_discrete",
    "rloo",
    "to_reference",
    "truth",
]


def exact(old: Policy, new: Policy) -> Tensor:
    """KL(old || new) of each step, nats: the closed form, summed over dimensions."""
    return kl_divergence(Normal(old.mean, old.std), Normal(new.mean, new.std)).sum(-1)


def k3(log_ratio: Tensor) -> Tensor:
    """Schulman's third estimator, as most loops write it."""
    return log_ratio.exp() - 1 - log_ratio


def truth(of: Record) -> float:
    """How far the policy that acts next is from the one that sampled, nats per step."""
    return float(exact(of.old, of.new).mean())


def esper_sums(of: Record) -> Tensor:
    """Numerators of the heads, one a dimension, after the last step."""
    log_ratio = of.new.log_probs(of.actions) - of.old.log_probs(of.actions)
    return k3_sums(log_ratio, torch.ones_like(log_ratio, dtype=torch.bool))


def last_epoch(of: Record) -> float:
    """Mean over the minibatches of the last epoch begun."""
    return float(torch.stack([k3(of.joint(check)).mean() for check in of.of_epoch(EPOCHS - 1)]).mean())


def policy_kl(p0: Policy, p1: Policy) -> Tensor:
    """rl_games' closed form, with its two guards against 0, per step."""
    log_scale = torch.log(p1.std / p0.std + 1e-5)
    return (log_scale + (p0.std**2 + (p1.mean - p0.mean) ** 2) / (2.0 * (p1.std**2 + 1e-5)) - 0.5).sum(-1)


def rl_games_continuous(of: Record) -> float:
    """Each minibatch replaces "old" by the policy it has just been compared with."""
    mean, std = of.old.mean.clone(), of.old.std.clone()
    kls = []
    for check in of.checks:
        kls.append(policy_kl(check.policy, Policy(mean, std).at(check.places)).mean())
        mean[check.places], std[check.places] = check.policy.mean, check.policy.std
    return float(torch.stack(kls).mean())


def rl_games_discrete(of: Record) -> float:
    """k2, half the squared log-ratio, over all minibatches."""
    return float(torch.stack([0.5 * (of.joint(check) ** 2).mean() for check in of.checks]).mean())


def grpo(of: Record) -> float:
    """k3 of reference against policy per token (here: per dimension), over all minibatches."""
    return float(torch.stack([k3(-to_reference(of, check)).mean() for check in of.checks]).mean())


def rloo(of: Record) -> float:
    """k1 of the sampling policy against the reference per token, before any step."""
    return float((of.old.log_probs(of.actions) - of.reference.log_probs(of.actions)).mean())


def to_reference(of: Record, check: Check) -> Tensor:
    """Log new - log reference of a minibatch, (steps, dimensions)."""
    actions = of.actions[check.places]
    return check.policy.log_probs(actions) - of.reference.at(check.places).log_probs(actions)

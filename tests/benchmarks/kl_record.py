"""One recorded PPO update of a Gaussian policy, float64: what every formula of kl_of_libraries.py is applied to."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.distributions import Normal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DIMENSIONS", "EPOCHS", "STEPS", "Check", "Policy", "Record", "record"]

STEPS, DIMENSIONS, FEATURES = 512, 3, 4
EPOCHS, MINIBATCHES = 8, 4


@dataclass(frozen=True)
class Policy:
    """Gaussians of some steps: mean and standard deviation, float64 (steps, dimensions)."""

    mean: Tensor
    std: Tensor

    def log_probs(self, actions: Tensor) -> Tensor:
        """(steps, dimensions), nats."""
        found: Tensor = Normal(self.mean, self.std).log_prob(actions)  # type: ignore[no-untyped-call]  # torch's
        return found

    def at(self, places: Tensor) -> Policy:
        """Of some of the steps."""
        return Policy(self.mean[places], self.std[places])


@dataclass(frozen=True)
class Check:
    """What a loop has in hand before one optimizer step: the places of the minibatch and the policy there."""

    epoch: int
    places: Tensor
    policy: Policy


@dataclass(frozen=True)
class Record:
    """One update: ``old`` drew ``actions``, ``new`` is the policy after the last step, ``reference`` an earlier one."""

    actions: Tensor
    old: Policy
    new: Policy
    reference: Policy
    checks: tuple[Check, ...]

    def log_ratio(self, check: Check) -> Tensor:
        """Log new - log old of a minibatch, (steps, dimensions)."""
        actions = self.actions[check.places]
        return check.policy.log_probs(actions) - self.old.at(check.places).log_probs(actions)

    def joint(self, check: Check) -> Tensor:
        """The same of whole actions, (steps): what libraries without named heads have."""
        return self.log_ratio(check).sum(-1)

    def of_epoch(self, epoch: int) -> list[Check]:
        """Its minibatches."""
        return [check for check in self.checks if check.epoch == epoch]

    @property
    def last(self) -> Check:
        """The last minibatch before its step."""
        return self.checks[-1]


@functools.cache
def record(seed: int = 0) -> Record:
    """Train three updates and record the third; the reference is the policy before the first."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight = (0.3 * draw(FEATURES, DIMENSIONS)).requires_grad_()
    log_std = torch.full((DIMENSIONS,), -0.5, dtype=torch.float64).requires_grad_()
    wanted = draw(FEATURES, DIMENSIONS)
    optimizer = torch.optim.Adam([weight, log_std], lr=3e-3)

    def policy(observations: Tensor) -> Policy:
        mean = observations @ weight
        return Policy(mean, log_std.exp().expand_as(mean))

    def fixed(observations: Tensor) -> Policy:
        with torch.no_grad():
            found = policy(observations)
            return Policy(found.mean.clone(), found.std.clone())

    start = weight.detach().clone(), log_std.detach().clone()
    for _ in range(3):
        observations = draw(STEPS, FEATURES)
        old = fixed(observations)
        actions = old.mean + old.std * draw(STEPS, DIMENSIONS)
        reward = -((actions - observations @ wanted) ** 2).sum(-1)
        advantage = (reward - reward.mean()) / reward.std()
        checks = []
        for epoch in range(EPOCHS):
            for places in torch.randperm(STEPS, generator=generator).chunk(MINIBATCHES):
                checks.append(Check(epoch, places, fixed(observations[places])))
                log_new = policy(observations[places]).log_probs(actions[places]).sum(-1)
                ratio = (log_new - old.at(places).log_probs(actions[places]).sum(-1)).exp()
                gain = torch.minimum(ratio * advantage[places], ratio.clamp(0.8, 1.2) * advantage[places])
                optimizer.zero_grad()
                (-gain.mean()).backward()  # type: ignore[no-untyped-call]  # torch's
                optimizer.step()
        mean = observations @ start[0]
        reference = Policy(mean, start[1].exp().expand_as(mean))
        found = Record(actions, old, fixed(observations), reference, tuple(checks))
    return found

"""What a compiled step is built for: everything that is part of its code, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import torch

from esper_core.config.schema import PPOConfig
from esper_core.events import HeadKind  # noqa: TC001  # msgspec reads it
from esper_core.ppo.heads import HeadLayout, HeadSpec
from esper_core.ppo.minibatches import Minibatch
from esper_core.ppo.networks import dense_trunk
from esper_core.ppo.policy import MultiHeadPolicy

if TYPE_CHECKING:
    from typing import Self

    from esper_core.ppo.rollout import Batch

__all__ = ["Plan"]

_MOST: Final = 16384
"""Samples that are traced: larger minibatches take the same way."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Shapes, heads, and the settings that are baked in. Two plans that are equal have the same step.

    Learning rate, clip range, gradient limit, coefficients and the number of samples are inputs of the step.

    Attributes:
        inputs: length of an observation's row.
        heads: number of choices and kind of each.
        masked: whether a batch has a mask of legal choices.
        samples: of the minibatch that is traced; others may have more or fewer, but at least 2.
        hidden: ``ppo.hidden``.
        activation: ``ppo.activation``.
        shared_trunk: ``ppo.shared_trunk``.
        squash: ``ppo.squash``.
        entropy: whether ``ppo.entropy_coef`` is more than 0.
        value_clip_range: ``ppo.value_clip_range``.
        value_clip_rule: ``ppo.value_clip_rule``.
    """

    inputs: int
    heads: tuple[tuple[int, HeadKind], ...]
    masked: bool
    samples: int
    hidden: tuple[int, ...]
    activation: str
    shared_trunk: bool
    squash: bool
    entropy: bool
    value_clip_range: float
    value_clip_rule: str

    @classmethod
    def of(cls, layout: HeadLayout, config: PPOConfig, batch: Batch) -> Self:
        """The plan of a policy of dense layers, and of batches like this one."""
        return cls(
            inputs=batch.observations.shape[1],
            heads=tuple(zip(layout.sizes, layout.kinds, strict=True)),
            masked=batch.legal is not None,
            samples=min(config.minibatch_size, _MOST),
            hidden=tuple(config.hidden),
            activation=config.activation,
            shared_trunk=config.shared_trunk,
            squash=config.squash,
            entropy=config.entropy_coef > 0,
            value_clip_range=config.value_clip_range,
            value_clip_rule=config.value_clip_rule,
        )

    @property
    def config(self) -> PPOConfig:
        """A table that gives this plan."""
        return msgspec.convert(
            {
                "policy": "mlp",
                "minibatch_size": self.samples,
                "hidden": self.hidden,
                "activation": self.activation,
                "shared_trunk": self.shared_trunk,
                "squash": self.squash,
                "entropy_coef": float(self.entropy),
                "value_clip_range": self.value_clip_range,
                "value_clip_rule": self.value_clip_rule,
            },
            PPOConfig,
        )

    def policy(self) -> MultiHeadPolicy:
        """A policy of this plan, with weights of no meaning."""
        draw = torch.Generator().manual_seed(0)
        trunk = dense_trunk(self.config, self.inputs, draw)
        return MultiHeadPolicy(self._layout(), trunk, draw, squash=self.squash)

    def minibatch(self) -> Minibatch:
        """A minibatch of this plan, with values of no meaning. Each tensor is one of its own: a trace merges others."""
        layout, many = self._layout(), self.samples
        return Minibatch(
            observations=torch.ones(many, self.inputs),
            actions=torch.zeros(many, layout.count, dtype=layout.action_dtype),
            log_prob=torch.zeros(many, layout.count),
            legal=torch.ones(many, layout.count, layout.width, dtype=torch.bool) if self.masked else None,
            active=torch.ones(many, layout.count, dtype=torch.bool),
            advantages=torch.ones(many),
            ratio_least=torch.ones(many),
            ratio_most=torch.ones(many),
            returns=torch.ones(many),
            values=torch.ones(many),
            decisions=(1.0,) * layout.count,
            steps=1.0,
            samples=1.0,
        )

    def _layout(self) -> HeadLayout:
        return HeadLayout([HeadSpec(f"head_{at}", size, kind) for at, (size, kind) in enumerate(self.heads)])

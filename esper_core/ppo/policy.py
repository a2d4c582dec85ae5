"""The network: one policy trunk and one value trunk computed together, and one row of outputs for all heads."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esper_core.ppo.distributions import Distribution, Evaluation, HeadDistributions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.ppo.heads import HeadLayout

__all__ = ["MultiHeadPolicy"]


class MultiHeadPolicy(nn.Module):
    """Tanh trunks for policy and value, packed into batched matrices, with all heads in one output layer.

    The two trunks have the same shape, so each layer of both is one matrix product. Logits and means come out padded to
    ``(heads, width)``: no gather, no loop over heads. Orthogonal initialisation, gain sqrt(2) in the trunks, 0.01
    for the logits and means and 1 for the value (Engstrom et al. 2020, arXiv:2005.12729).

    Args:
        layout: the heads.
        inputs: length of a flattened observation.
        hidden: widths of the hidden layers; may be empty.
        generator: seeds the weights; nothing else draws from it here.
        log_std_init: of Gaussian heads, nats.
        squash: see :class:`~esper_core.ppo.distributions.HeadDistributions`.
    """

    _valid: Tensor

    def __init__(
        self,
        layout: HeadLayout,
        inputs: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        *,
        log_std_init: float = 0.0,
        squash: bool = False,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.heads = HeadDistributions(layout, log_std_init=log_std_init, squash=squash)
        widths = [inputs, *hidden]
        # A plain list beside the registered parameters: indexing a ParameterList costs more than a small layer.
        self._trunk: list[tuple[nn.Parameter, nn.Parameter]] = []
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            pair = torch.stack([_orthogonal(fan_in, fan_out, math.sqrt(2), generator) for _ in range(2)])
            # Both trunks read the same observation: their first layer is one ordinary matrix product.
            weight = pair.transpose(0, 1).reshape(fan_in, 2 * fan_out) if index == 0 else pair
            bias = torch.zeros(2 * fan_out) if index == 0 else torch.zeros(2, 1, fan_out)
            layer = (nn.Parameter(weight.contiguous()), nn.Parameter(bias))
            self.register_parameter(f"trunk_weight_{index}", layer[0])
            self.register_parameter(f"trunk_bias_{index}", layer[1])
            self._trunk.append(layer)
        self.logit_weight = nn.Parameter(_output_weight(layout, widths[-1], generator))
        self.logit_bias = nn.Parameter(torch.zeros(layout.count * layout.width))
        self.value_weight = nn.Parameter(_orthogonal(widths[-1], 1, 1.0, generator))
        self.value_bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("_valid", layout.valid.clone(), persistent=False)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and means (B, heads, width), and values (B,), of observations (B, inputs)."""
        policy = value = observations
        if self._trunk:
            weight, bias = self._trunk[0]
            first = torch.addmm(bias, observations, weight).tanh()
            both = first.view(len(first), 2, first.shape[1] // 2).transpose(0, 1)
            for weight, bias in self._trunk[1:]:
                both = torch.baddbmm(bias, both, weight).tanh()
            policy, value = both[0], both[1]
        logits = torch.addmm(self.logit_bias, policy, self.logit_weight)
        values = torch.addmm(self.value_bias, value, self.value_weight).squeeze(1)
        return logits.view(-1, self.layout.count, self.layout.width), values

    def legal(self, legal: Tensor | None) -> Tensor | None:
        """The mask to apply: the environment's, else the layout's own padding; None when nothing is ever illegal."""
        if legal is not None:
            return legal
        return self._valid if self.layout.padded else None

    def evaluate(self, observations: Tensor, actions: Tensor, legal: Tensor | None) -> Evaluation:
        """Judge taken actions.

        Args:
            observations: float32 (B, inputs).
            actions: (B, heads) as they were sampled, of the layout's dtype.
            legal: bool (B, heads, width) as it was when the actions were sampled, or None.
        """
        distribution, values = self.distribution(observations, legal)
        heads = self.heads
        return Evaluation(heads.log_prob(distribution, actions), heads.entropy(distribution), values, distribution)

    def distribution(self, observations: Tensor, legal: Tensor | None) -> tuple[Distribution, Tensor]:
        """What each head draws from, and values (B,), with the arguments of :meth:`evaluate`."""
        outputs, values = self.forward(observations)
        return self.heads.distribution(outputs, self.legal(legal)), values


def _output_weight(layout: HeadLayout, fan_in: int, generator: torch.Generator) -> Tensor:
    """The output layer (fan_in, heads * width): each head that chooses by itself, then all means together."""
    weight = torch.zeros(fan_in, layout.count, layout.width)
    for column in layout.choosing.tolist():
        head = layout.heads[column]
        # A Bernoulli has one logit, that of its second choice.
        first = 1 if head.kind == "bernoulli" else 0
        weight[:, column, first : head.size] = _orthogonal(fan_in, head.size - first, 0.01, generator)
    if len(layout.dense):
        weight[:, layout.dense, 0] = _orthogonal(fan_in, len(layout.dense), 0.01, generator)
    return weight.flatten(1)


def _orthogonal(fan_in: int, fan_out: int, gain: float, generator: torch.Generator) -> Tensor:
    """An orthogonal (fan_in, fan_out) matrix from the given generator alone."""
    rows, columns = max(fan_in, fan_out), min(fan_in, fan_out)
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=generator))
    signed: Tensor = gain * q * torch.sign(torch.diagonal(r))
    return signed if fan_in >= fan_out else signed.T

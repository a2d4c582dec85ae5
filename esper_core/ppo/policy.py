"""The network: one policy trunk and one value trunk computed together, and one row of logits for all heads."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from esper_core.ppo.distributions import Evaluation, masked_log_softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.ppo.heads import HeadLayout

__all__ = ["MultiHeadPolicy"]


class MultiHeadPolicy(nn.Module):
    """Tanh trunks for policy and value, packed into batched matrices, with all heads in one output layer.

    The two trunks have the same shape, so each layer of both is one matrix product. The logits come out padded to
    ``(heads, width)``: no gather, no loop over heads. Orthogonal initialisation, gain sqrt(2) in the trunks, 0.01
    for the logits and 1 for the value (Engstrom et al. 2020, arXiv:2005.12729).

    Args:
        layout: the heads.
        inputs: length of a flattened observation.
        hidden: widths of the hidden layers; may be empty.
        generator: seeds the weights; nothing else draws from it here.
    """

    _valid: Tensor

    def __init__(self, layout: HeadLayout, inputs: int, hidden: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.layout = layout
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
        blocks = [_orthogonal(widths[-1], head.size, 0.01, generator) for head in layout.heads]
        self.logit_weight = nn.Parameter(
            torch.cat([nn.functional.pad(block, (0, layout.width - block.shape[1])) for block in blocks], dim=1)
        )
        self.logit_bias = nn.Parameter(torch.zeros(layout.count * layout.width))
        self.value_weight = nn.Parameter(_orthogonal(widths[-1], 1, 1.0, generator))
        self.value_bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("_valid", layout.valid.clone(), persistent=False)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, heads, width) and values (B,) of observations (B, inputs)."""
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
            actions: int64 (B, heads).
            legal: bool (B, heads, width) as it was when the actions were sampled, or None.
        """
        logits, values = self.forward(observations)
        log_probs = masked_log_softmax(logits, self.legal(legal))
        taken = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        # Illegal choices add exactly 0: exp(-1e9) is 0 and -1e9 is finite.
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return Evaluation(taken, entropy, values, log_probs)


def _orthogonal(fan_in: int, fan_out: int, gain: float, generator: torch.Generator) -> Tensor:
    """An orthogonal (fan_in, fan_out) matrix from the given generator alone."""
    rows, columns = max(fan_in, fan_out), min(fan_in, fan_out)
    q, r = torch.linalg.qr(torch.randn(rows, columns, generator=generator))
    signed: Tensor = gain * q * torch.sign(torch.diagonal(r))
    return signed if fan_in >= fan_out else signed.T

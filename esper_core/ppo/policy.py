"""The policy: a trunk, one row of outputs for all heads, and the value."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from esper_core.ppo.distributions import Distribution, Evaluation, HeadDistributions
from esper_core.ppo.networks import orthogonal, small

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from esper_core.ppo.heads import HeadLayout
    from esper_core.ppo.networks import Trunk
    from esper_core.ppo.task import FloatArray

    HostNetwork: TypeAlias = Callable[[FloatArray], tuple[NDArray[np.float32], NDArray[np.float32]]]

__all__ = ["MultiHeadPolicy"]


class MultiHeadPolicy(nn.Module):
    """A trunk, all heads in one output layer, and a value.

    Logits and means come out padded to ``(heads, width)``: no gather, no loop over heads. Orthogonal initialisation,
    gain 0.01 for the logits and means and 1 for the value (Engstrom et al. 2020, arXiv:2005.12729).

    Args:
        layout: the heads.
        trunk: see :mod:`esper_core.ppo.networks`.
        generator: seeds the weights; nothing else draws from it here.
        log_std_init: of Gaussian heads, nats.
        squash: see :class:`~esper_core.ppo.distributions.HeadDistributions`.
    """

    _valid: Tensor

    def __init__(
        self,
        layout: HeadLayout,
        trunk: Trunk,
        generator: torch.Generator,
        *,
        log_std_init: float = 0.0,
        squash: bool = False,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.heads = HeadDistributions(layout, log_std_init=log_std_init, squash=squash)
        self.trunk = trunk
        policy, value = trunk.widths
        self.logit_weight = nn.Parameter(_output_weight(layout, policy, generator))
        self.logit_bias = nn.Parameter(torch.zeros(layout.count * layout.width))
        self.value_weight = nn.Parameter(orthogonal(value, 1, 1.0, generator))
        self.value_bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("_valid", layout.valid.clone(), persistent=False)

    def learned(self) -> list[nn.Parameter]:
        """Every parameter, in the order of a pass: the trunk's, then the others. Checkpoints keep the optimizer so."""
        trunk = list(self.trunk.parameters())
        inside = set(map(id, trunk))
        return [*trunk, *(parameter for parameter in self.parameters() if id(parameter) not in inside)]

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and means (B, heads, width), and values (B,), of observations (B, inputs)."""
        policy, value = self.trunk.forward(observations)
        logits = torch.addmm(self.logit_bias, policy, self.logit_weight)
        values = torch.addmm(self.value_bias, value, self.value_weight).squeeze(1)
        return logits.view(-1, self.layout.count, self.layout.width), values

    def on_host(self, rows: int) -> HostNetwork:
        """The forward pass from NumPy to NumPy, of the weights as they are now.

        A small network on the CPU is computed in NumPy, any other one as :meth:`forward` does.

        Args:
            rows: of every call.

        Returns:
            What maps observations float32 (rows, inputs), contiguous, to logits and means (rows, heads, width) and
            values (rows,).
        """
        features = self.trunk.on_host(rows) if self.logit_weight.device.type == "cpu" else None
        if features is None or not small(rows, self.logit_weight):
            return self._through_torch
        shape = (rows, self.layout.count, self.layout.width)
        logit_weight, logit_bias, value_weight, value_bias = (
            parameter.detach().numpy()
            for parameter in (self.logit_weight, self.logit_bias, self.value_weight, self.value_bias)
        )

        def network(observations: FloatArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            policy, value = features(observations)
            outputs = np.dot(policy, logit_weight)
            outputs += logit_bias
            values = np.dot(value, value_weight)
            values += value_bias
            return outputs.reshape(shape), values[:, 0]

        return network

    @torch.no_grad()
    def _through_torch(self, observations: FloatArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        device = self.logit_weight.device
        outputs, values = self.forward(torch.from_numpy(observations).to(device, non_blocking=True))
        if device.type == "cpu":
            return outputs.numpy(), values.numpy()
        # One transfer: each one waits for the accelerator.
        both = torch.cat([outputs.flatten(1), values.unsqueeze(1)], dim=1).cpu().numpy()
        return both[:, :-1].reshape(outputs.shape), both[:, -1]

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
        weight[:, column, first : head.size] = orthogonal(fan_in, head.size - first, 0.01, generator)
    if len(layout.dense):
        weight[:, layout.dense, 0] = orthogonal(fan_in, len(layout.dense), 0.01, generator)
    return weight.flatten(1)

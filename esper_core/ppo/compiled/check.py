"""Compiled code is believed after it has done one minibatch as the code that it was made from does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from esper_core.ppo.compiled.graph import STATE, step_of

if TYPE_CHECKING:
    from torch import Tensor

    from esper_core.config.schema import PPOConfig
    from esper_core.ppo.compiled.step import Run
    from esper_core.ppo.policy import MultiHeadPolicy

__all__ = ["agrees"]

_MOVE: Final = 0.1
"""Deviation of the noise that is added to the weights: before the first step no ratio and no value is clipped."""
_SHARE: Final = 1e-3
"""Of the largest number of a result: how far any may be off. Float32 sums in another order differ by 1e-6 of it."""


def agrees(run: Run, policy: MultiHeadPolicy, config: PPOConfig, inputs: list[Tensor]) -> bool:
    """Whether a step moves weights and moments as it does uncompiled, some way from where the inputs are."""
    values, *others = (part.to(inputs[0].device) for part in inputs)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(len(values), generator=draw).to(values.device)
    inputs = [values + _MOVE * noise, *others]
    before = inputs[:STATE]
    expected = step_of(policy, config)(*inputs)[:STATE]
    found = run(inputs)[:STATE]
    return all(_close(a - start, b - start) for a, b, start in zip(found, expected, before, strict=True))


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two changes agree."""
    most = float(expected.abs().max())
    return torch.allclose(found, expected, rtol=0.0, atol=_SHARE * most, equal_nan=True)

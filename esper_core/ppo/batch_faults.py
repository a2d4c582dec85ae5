"""Whether a batch may be learned from: empty rollouts, and values that are NaN or Inf."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from esper_core.ppo.reducer import Reducer
    from esper_core.ppo.rollout import Batch

__all__ = ["fault_of"]


def fault_of(
    batch: Batch, samples: int, parameters: Sequence[nn.Parameter], reducer: Reducer
) -> tuple[str, int] | None:
    """Why no step may be taken on this batch, and how many values are NaN or Inf; None when nothing is wrong.

    Args:
        batch: of this rank.
        samples: of all ranks.
        parameters: the weights that would learn.
        reducer: joins the sums of several ranks.
    """
    if not samples:
        return "the rollout is empty", 0
    places = {
        "observations": batch.observations,
        "advantages": batch.advantages,
        "returns": batch.returns,
        "old log-probabilities": torch.where(batch.active, batch.log_prob, 0.0),
        "weights": torch.nn.utils.parameters_to_vector(parameters),
    }
    # A sum is finite when its summands are (short of an overflow): one transfer clears nearly every rollout.
    sums = torch.stack([values.detach().sum() for values in places.values()])
    if all(math.isfinite(total) for total in reducer.sum(sums).tolist()):
        return None
    counted = torch.stack([(~values.isfinite()).sum() for values in places.values()])
    counts = dict(zip(places, reducer.sum(counted).tolist(), strict=True))
    counts["weights"] = math.ceil(counts["weights"] / reducer.world_size)  # all ranks hold the same
    faults = [f"{count} non-finite {name}" for name, count in counts.items() if count]
    return (", ".join(faults), sum(counts.values())) if faults else None

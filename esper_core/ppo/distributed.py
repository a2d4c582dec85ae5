"""Several ranks through ``torch.distributed``: reductions, what they tell each other, and whether weights agree."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.distributed as dist

from esper_core.errors import RanksError

if TYPE_CHECKING:
    from torch import Tensor

    from esper_core.ppo.agent import PPOAgent

__all__ = ["GroupReducer", "refuse_different_weights", "share_weights"]


class GroupReducer:
    """The ranks of the default process group, on the CPU. Its timeout bounds every call.

    Args:
        timeout_s: of the group, in seconds, for the message.

    Raises:
        RanksError: from every call: another rank is gone, or has not called in time.
    """

    def __init__(self, timeout_s: float) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._timeout_s = timeout_s

    def sum(self, value: Tensor) -> Tensor:
        """Element-wise sum over all ranks; ``value`` stays as it is."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def max(self, value: Tensor) -> Tensor:
        """Element-wise maximum over all ranks. A NaN counts as infinite: MAX of one depends on the order."""
        return self._reduced(value.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf), dist.ReduceOp.MAX)

    def gather(self, value: Any) -> list[Any]:
        """What each rank gave, by rank: anything that can be pickled."""
        found: list[Any] = [None] * self.world_size
        try:
            dist.all_gather_object(found, value)
        except RuntimeError as error:
            self._lost(error)
        return found

    def broadcast(self, values: Tensor) -> None:
        """Overwrite with rank 0's values."""
        try:
            dist.broadcast(values, src=0)
        except RuntimeError as error:
            self._lost(error)

    def _reduced(self, value: Tensor, operation: Any) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        try:
            dist.all_reduce(total, op=operation)
        except RuntimeError as error:
            self._lost(error)
        return total

    def _lost(self, error: RuntimeError) -> NoReturn:
        what = _shortly(error)
        if "timed out" in what.lower() or "timeout" in what.lower():
            what = f"not all of them came within {self._timeout_s:g} s (run.rank_timeout_s)"
        raise RanksError(
            f"rank {self.rank} of {self.world_size} lost the others: {what}",
            hint="the rank that ended or hangs says why; every rank's journal can be read",
        ) from error


def _shortly(error: RuntimeError) -> str:
    """What gloo says, without the line of its source, the peer's address and its guess at a cause."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    said = re.sub(r"^\[[^\]]*gloo[^\]]*\]\s*", "", said).partition(". This is")[0]
    return said.rpartition("]: ")[2][:200]


def share_weights(agent: PPOAgent, group: GroupReducer) -> None:
    """Give every rank the weights and buffers of rank 0's policy."""
    agent.optimizer.hold()
    with torch.no_grad():
        for values in agent.policy.state_dict().values():
            group.broadcast(values)


def refuse_different_weights(agent: PPOAgent, group: GroupReducer) -> None:
    """Compare the ranks' policies bit by bit, by digest.

    Raises:
        RanksError: on every rank, when one differs from rank 0's.
    """
    digests = group.gather(_digest(agent))
    others = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
    if others:
        who = f"rank{'s' if len(others) > 1 else ''} {', '.join(map(str, others))}"
        raise RanksError(
            f"after update {agent.updates} {who} of {group.world_size} held other weights than rank 0",
            hint="do all ranks have the same torch and the same kind of processor? the checkpoint is rank 0's",
        )


def _digest(agent: PPOAgent) -> str:
    """SHA-256 of every tensor of the policy, and of the running statistics."""
    digest = hashlib.sha256()
    held = dict(agent.policy.state_dict())
    for name, normaliser in (("observations", agent.normaliser), ("rewards", agent.reward_normaliser)):
        if normaliser is not None:
            moments = normaliser.moments
            held[name] = torch.cat([moments.mean.new_full((1,), moments.count), moments.mean, moments.squares])
    for name, values in held.items():
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

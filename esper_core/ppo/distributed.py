"""Several ranks through ``torch.distributed``: reductions, what they tell each other, and whether weights agree."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np
import torch
import torch.distributed as dist

from esper_core.errors import EXIT_SIGNAL, RanksError
from esper_core.ppo.reducer import seed_of_rank
from esper_core.runs.ranks import RankRecord, gone_ranks, rank_record, ranks_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from esper_core.ppo.agent import PPOAgent
    from esper_core.ppo.checkpoint import Checkpoint

__all__ = ["GroupReducer", "checkpoint_of_rank", "refuse_different_weights", "share_weights"]

_LOOK: Final = timedelta(seconds=0.2)
"""Between two looks at whether a signal came: its handler runs only while torch does not wait."""

_GONE_S: Final = 2.0
_GONE_LOOK_S: Final = 0.02
"""Seconds for which a lost rank's process is looked for, and between two looks."""


class GroupReducer:
    """The ranks of the default process group, on the CPU. Its timeout bounds every call.

    Args:
        timeout_s: of the group, in seconds, for the message.
        stop: whether this rank was asked to stop: it waits a short time for the others then, and not for ``timeout_s``.
        asked_s: that time, in seconds.

    Attributes:
        rank: of this process.
        world_size: number of ranks.
        left: whether a call was left that the others never joined: torch waits for it when the group is destroyed.
        processes: of every rank, known after :meth:`introduce`.

    Raises:
        RanksError: from every call: another rank is gone, or has not called in time.
    """

    def __init__(self, timeout_s: float, stop: Callable[[], bool], *, asked_s: float) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.left = False
        self.processes: tuple[RankRecord, ...] = ()
        self._timeout_s = timeout_s
        self._stop = stop
        self._asked_s = asked_s

    def introduce(self) -> None:
        """Tell the others this rank's process, so that whoever loses a rank can name it. Every rank calls."""
        self.processes = tuple(self.gather(rank_record(self.rank)))

    def sum(self, value: Tensor) -> Tensor:
        """Element-wise sum over all ranks; ``value`` stays as it is."""
        return self._reduced(value, dist.ReduceOp.SUM)

    def max(self, value: Tensor) -> Tensor:
        """Element-wise maximum over all ranks. A NaN counts as infinite: MAX of one depends on the order."""
        return self._reduced(value.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf), dist.ReduceOp.MAX)

    def gather(self, value: Any) -> list[Any]:
        """What each rank gave, by rank: anything that can be pickled."""
        own = _bytes(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        self._wait(lambda: dist.all_gather(sizes, torch.tensor([len(own)]), async_op=True))
        row = torch.zeros(int(max(sizes)), dtype=torch.uint8)
        row[: len(own)] = own
        rows = [torch.zeros_like(row) for _ in range(self.world_size)]
        self._wait(lambda: dist.all_gather(rows, row, async_op=True))
        return [_value(row[: int(size)]) for row, size in zip(rows, sizes, strict=True)]

    def share(self, value: Any) -> Any:
        """What rank 0 gave: anything that can be pickled."""
        own = _bytes(value if self.rank == 0 else None)
        size = torch.tensor([len(own)])
        self.broadcast(size)
        row = own if self.rank == 0 else torch.zeros(int(size), dtype=torch.uint8)
        self.broadcast(row)
        return value if self.rank == 0 else _value(row)

    def broadcast(self, values: Tensor) -> None:
        """Overwrite with rank 0's values."""
        self._wait(lambda: dist.broadcast(values, src=0, async_op=True))

    def _reduced(self, value: Tensor, operation: Any) -> Tensor:
        total = value.detach().clone(memory_format=torch.contiguous_format)
        self._wait(lambda: dist.all_reduce(total, op=operation, async_op=True))
        return total

    def _wait(self, call: Callable[[], Any]) -> None:
        """Wait for the others, in steps between which the handlers of signals run."""
        asked: float | None = None
        try:
            work = call()
            try:
                while not _ended(work):
                    now = time.monotonic()
                    asked = now if asked is None and self._stop() else asked
                    if asked is not None and now - asked >= self._asked_s:
                        self._leave()
            finally:
                self.left = not work.is_completed()
            work.wait()
        except RuntimeError as error:
            self._lost(error)

    def _leave(self) -> NoReturn:
        """Raise after a signal that the others do not answer."""
        name = getattr(self._stop, "name", "") or "asked to stop"
        lost = RanksError(
            f"{name}: rank {self.rank} of {self.world_size} waited {self._asked_s:g} s for the others in vain",
            hint="one hangs, or was not asked and plays its rollout for longer; what the last checkpoint holds is kept",
        )
        number = getattr(self._stop, "signal", None)
        if number is not None:
            lost.exit_code = EXIT_SIGNAL + number
        raise lost

    def _lost(self, error: RuntimeError) -> NoReturn:
        what = _shortly(error)
        if "timed out" in what.lower() or "timeout" in what.lower():
            what = f"{self._late()} within {self._timeout_s:g} s (run.rank_timeout_s)"
        elif gone := self._gone():
            what = ranks_text(gone)
        raise RanksError(
            f"rank {self.rank} of {self.world_size} lost the others: {what}",
            hint="the rank that ended or hangs says why; every rank's journal can be read",
        ) from error

    def _late(self) -> str:
        """Who did not come, as far as that is known: of two it is the other one."""
        others = [item for item in self.processes if item.rank != self.rank]
        return f"{others[0]} did not come" if len(others) == 1 else "not all of them came"

    def _gone(self) -> list[RankRecord]:
        """Which ranks are gone from this host: a connection closes a moment before its process has ended."""
        last = time.monotonic() + _GONE_S
        while not (gone := gone_ranks(self.processes)) and time.monotonic() < last:
            time.sleep(_GONE_LOOK_S)
        return gone


def _ended(work: Any) -> bool:
    """Whether a call ended, well or not, within a short time; its own ``wait`` then says which."""
    with contextlib.suppress(RuntimeError):  # this short time is over, or the call has failed
        work.wait(_LOOK)
    ended: bool = work.is_completed()
    return ended


def _bytes(value: Any) -> Tensor:
    return torch.from_numpy(np.frombuffer(pickle.dumps(value), dtype=np.uint8).copy())


def _value(row: Tensor) -> Any:
    return pickle.loads(row.numpy().tobytes())  # noqa: S301  # of a rank of this run, which runs the same program


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


def checkpoint_of_rank(checkpoint: Checkpoint, rank: int) -> Checkpoint:
    """A checkpoint, which is of rank 0, as another rank goes on from it.

    The weights, the optimizer and the statistics are of all ranks. What a rank draws, and the episodes that it plays,
    are its own: they begin anew, from a seed of the rank and of the update.
    """
    if rank == 0:
        return checkpoint
    own = np.random.SeedSequence(seed_of_rank(checkpoint.seed, rank), spawn_key=(checkpoint.update_id, 0))
    sampling, order = (torch.Generator().manual_seed(int(word)).get_state() for word in own.generate_state(2))
    rewards = checkpoint.state["rewards"]
    state = checkpoint.state | {
        "sampling": sampling,
        "order": order,
        "rewards": None if rewards is None else rewards | {"running": None},
    }
    return replace(checkpoint, state=state, places=(), running=None)

"""Ranks that are threads of one process: the same sums and exchanges, without a process group."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

GUARD_S = 250


class ThreadRanks:
    """Ranks that are threads: ``of(rank)`` is the group as that rank has it."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.barrier = threading.Barrier(world_size)
        self.slots: list[Any] = [None] * world_size

    def of(self, rank: int) -> ThreadRank:
        return ThreadRank(self, rank)

    def run(self, work: Callable[[ThreadRank], Any]) -> list[Any]:
        """What each rank's work returned, by rank."""
        results: list[Any] = [None] * self.world_size

        def keep(rank: int) -> None:
            try:
                results[rank] = work(self.of(rank))
            except BaseException as error:  # noqa: BLE001  # raised below, in the thread of the test
                results[rank] = error
                self.barrier.abort()

        threads = [threading.Thread(target=keep, args=(rank,), daemon=True) for rank in range(self.world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(GUARD_S)
        failed = [result for result in results if isinstance(result, BaseException)]
        for error in sorted(failed, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
            raise error  # the cause before those that waited for it
        return results


class ThreadRank:
    """One of them."""

    def __init__(self, ranks: ThreadRanks, rank: int) -> None:
        self.ranks, self.rank, self.world_size = ranks, rank, ranks.world_size
        self.calls = 0
        """Exchanges with the others so far."""

    def gather(self, value: Any) -> list[Any]:
        self.calls += 1
        self.ranks.slots[self.rank] = value
        self.ranks.barrier.wait(GUARD_S)
        found = list(self.ranks.slots)
        self.ranks.barrier.wait(GUARD_S)
        return found

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(value.clone())).sum(0)

    def max(self, value: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather(value.clone())).amax(0)

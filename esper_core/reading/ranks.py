"""What is heard of a run's ranks by their events: who is there, and how each ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from esper_core.events import RunFinished, SinkStatusChanged

if TYPE_CHECKING:
    from esper_core.events import Payload, SinkLoss, TelemetryEvent

__all__ = ["RankHeard", "RanksHeard", "loss_of_rank", "status_of_rank"]

MOST_RANKS: Final = 1024
"""Ranks of a run that are remembered: a client may send any number of invented ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankHeard:
    """One rank of a run, in its newest attempt.

    Attributes:
        rank: counts from 0.
        last_ns: time of its newest event, unix nanoseconds.
        ended: how it ended, in words; empty while it has not told.
    """

    rank: int
    last_ns: int
    ended: str = ""


class RanksHeard:
    """The ranks of the newest attempt that sent anything."""

    def __init__(self) -> None:
        self._attempt = 0
        self._ranks: dict[int, RankHeard] = {}

    def hear(self, event: TelemetryEvent[Any]) -> None:
        """Take in an event of any rank."""
        if event.attempt < self._attempt:
            return
        if event.attempt > self._attempt:
            self._attempt = event.attempt
            self._ranks = {}
        if event.rank not in self._ranks and len(self._ranks) >= MOST_RANKS:
            return
        known = self._ranks.get(event.rank, RankHeard(rank=event.rank, last_ns=event.time_ns))
        payload: Payload = event.payload
        ended = known.ended
        if isinstance(payload, RunFinished):
            ended = f"{payload.state.value}: {payload.reason}" if payload.reason else payload.state.value
        self._ranks[event.rank] = replace(known, last_ns=max(known.last_ns, event.time_ns), ended=ended)

    def all(self) -> tuple[RankHeard, ...]:
        """By rank."""
        return tuple(self._ranks[rank] for rank in sorted(self._ranks))


def status_of_rank(status: SinkStatusChanged, rank: int) -> SinkStatusChanged:
    """A sink's status under a name that tells the ranks' sinks apart: each rank has its own of one name."""
    return replace(status, sink=_named(status.sink, rank))


def loss_of_rank(loss: SinkLoss, rank: int) -> SinkLoss:
    """Likewise what it lost."""
    return replace(loss, sink=_named(loss.sink, rank))


def _named(sink: str, rank: int) -> str:
    return f"{sink}, rank {rank}" if rank else sink

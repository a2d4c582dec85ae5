"""The processes of a run's ranks, as ``run.json`` names them, and which of them are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from esper_core.health import RunState
from esper_core.runs.process import ProcessPresence, probe_process, process_identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["RankRecord", "gone_ranks", "how_it_ended", "log_name", "rank_record", "ranks_text"]


class RankRecord(Struct, kw_only=True):
    """The process of one rank. ``RunRecord`` explains what identifies a process.

    Attributes:
        rank: counts from 0.
        pid: in its own pid namespace.
        host: host name.
        boot_id: of the host.
        pid_namespace: of the process.
        process_start: clock ticks since boot.
        process_start_ns: unix nanoseconds.
    """

    rank: int
    pid: int = 0
    host: str = ""
    boot_id: str = ""
    pid_namespace: str = ""
    process_start: int = 0
    process_start_ns: int = 0

    def __str__(self) -> str:
        return f"rank {self.rank} (pid {self.pid} on {self.host})"


def rank_record(rank: int) -> RankRecord:
    """The calling process, as a rank."""
    who = process_identity()
    return RankRecord(
        rank=rank,
        pid=who.pid,
        host=who.host,
        boot_id=who.boot_id,
        pid_namespace=who.pid_namespace,
        process_start=who.process_start,
        process_start_ns=who.process_start_ns,
    )


def log_name(rank: int) -> str:
    """The name of a rank's log in the run's directory."""
    return "trainer.log" if rank == 0 else f"trainer-{rank}.log"


def gone_ranks(processes: Iterable[RankRecord]) -> list[RankRecord]:
    """Those whose process was looked for where it ran, and not found; one on another host is never among them."""
    return [item for item in processes if probe_process(item) is ProcessPresence.GONE]


def ranks_text(gone: Sequence[RankRecord]) -> str:
    """That ranks are gone, in words: ``rank 1 (pid 7 on h) is gone``; empty for none."""
    return f"{', '.join(map(str, gone))} {'is' if len(gone) == 1 else 'are'} gone" if gone else ""


def how_it_ended(message: str, state: RunState, processes: Sequence[RankRecord]) -> str:
    """How a run ended, in words: as its record has it, or that rank 0 of several is gone, which would have written it.

    Args:
        message: the record's.
        state: what :func:`esper_core.runs.read_state` said together with the record.
        processes: the record's.
    """
    if message or state is not RunState.CRASHED:
        return message
    return ranks_text(processes[:1])

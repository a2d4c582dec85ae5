"""Looking at a run of 1,000 updates from a shell: one picture as text, and the end of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_bench.peers import TENSORBOARD
from esper_bench.row import Row
from esper_bench.subjects import journal

if TYPE_CHECKING:
    from contextlib import ExitStack

    from esper_bench.row import Work

__all__ = ["ROWS"]


def _sanctum(stack: ExitStack) -> Work:
    """``--once`` exits with the verdict: every code below 64 has shown the run."""
    words = ["-m", "esper_core", "sanctum", "--once", str(journal.journaled(stack))]
    return journal.command(words, accepted=tuple(range(4)))


def _inspect(stack: ExitStack) -> Work:
    return journal.command(["-m", "tensorboard.main", "--inspect", "--logdir", journal.event_file(stack)])


ROWS: Final = (
    Row(
        "viewer, once",
        "`esper sanctum --once RUN`, the whole screen; `tensorboard --inspect`, the names and step ranges of the tags",
        "ms",
        _sanctum,
        (TENSORBOARD.doing(_inspect),),
        per="look",
        clock="commands",
        rounds=5,
    ),
)

"""What a report says of runs: the comparison, and each run as a screen would show it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.compare import compare
from esper_core.reading.model import build
from esper_core.reading.source import JournalSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.reading.compare import ComparedRun, Comparison, Follow, Group
    from esper_core.reading.model import ScreenModel
    from esper_core.reading.run import Run

__all__ = ["Report", "ReportedRun", "report"]

_BITE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRun:
    """One run.

    Attributes:
        group: it belongs to.
        curves: its numbers over all updates.
        screen: its verdict, advice, last events and sinks, as a viewer shows them.
    """

    group: Group
    curves: ComparedRun
    screen: ScreenModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Runs and what differs between them.

    Attributes:
        comparison: the groups.
        runs: group after group.
        made_ns: when it was made, unix nanoseconds.
    """

    comparison: Comparison
    runs: tuple[ReportedRun, ...]
    made_ns: int


def report(runs: Sequence[Run], *, now_ns: int | None = None, follow: Follow | None = None) -> Report:
    """Read the runs. A run given twice counts once; one without a journal has its state and its reason alone.

    Args:
        runs: the runs.
        now_ns: when the report is made, unix nanoseconds; None for now.
        follow: as for :func:`esper_core.reading.compare.compare`.
    """
    now_ns = time.time_ns() if now_ns is None else now_ns
    comparison = compare(runs) if follow is None else compare(runs, follow=follow)
    return Report(
        comparison=comparison,
        runs=tuple(
            ReportedRun(group=group, curves=run, screen=_screen(run.source, now_ns))
            for group in comparison.groups
            for run in group.runs
        ),
        made_ns=now_ns,
    )


def _screen(run: Run, now_ns: int) -> ScreenModel:
    source = JournalSource(run.directory)
    aggregator = SanctumAggregator(source.events_id)
    while events := source.poll(_BITE):
        aggregator.handle_all(events)
    snapshot = aggregator.snapshot()
    return build(snapshot, source.life(snapshot, now_ns), now_ns=now_ns, corrupt=source.corrupt, label=source.label)

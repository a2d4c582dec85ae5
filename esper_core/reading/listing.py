"""Runs as rows of a list, read from disk without being followed: what of them a list shows, and in which order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from esper_core.health import HEALTH_WINDOW, VerdictKind
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.model import RunRow, run_row
from esper_core.reading.source import JournalSource
from esper_core.runs.creation import started_ns
from esper_core.runs.state import read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from esper_core.runs.layout import RunDir

__all__ = ["SORTS", "Sort", "first_row", "listed_row", "sorted_rows"]

Sort: TypeAlias = Literal["time", "return", "verdict"]
SORTS: Final[tuple[Sort, ...]] = ("time", "return", "verdict")
_BITE: Final = 4096
_BADNESS: Final = {kind: place for place, kind in enumerate(VerdictKind)}


def first_row(run: RunDir, *, now_ns: int) -> RunRow:
    """A run by its ``run.json`` alone, which takes a fraction of a millisecond; its verdict is not known yet."""
    record, state = read_state(run, now_ns=now_ns)
    return RunRow(
        run_id=run.run_id,
        label=JournalSource(run).label,
        state=state,
        judged=False,
        updates=record.updates if record is not None else 0,
        ranks=record.ranks if record is not None else 1,
        started_ns=started_ns(run.path, record.started_ns if record is not None else 0),
    )


def listed_row(run: RunDir, *, now_ns: int) -> RunRow:
    """A run by ``run.json`` and the end of its journal: the row that following it would give."""
    source = JournalSource(run, first=HEALTH_WINDOW)
    aggregator = SanctumAggregator(source.events_id)
    while events := source.poll(_BITE):
        aggregator.handle_all(events)
    snapshot = aggregator.snapshot()
    return run_row(
        snapshot,
        source.life(snapshot, now_ns),
        run_id=run.run_id,
        label=source.label,
        group=source.group(snapshot),
        started_ns=source.started_ns(snapshot),
    )


def sorted_rows(rows: Iterable[RunRow], sort: Sort) -> list[RunRow]:
    """Newest first; by return the highest first, by verdict the worst first; what is not known comes last."""
    newest = sorted(rows, key=lambda row: (row.started_ns or 0, row.run_id), reverse=True)
    keys: dict[Sort, Callable[[RunRow], float]] = {"time": lambda _: 0.0, "return": _lowness, "verdict": _calm}
    return sorted(newest, key=keys[sort])


def _lowness(row: RunRow) -> float:
    known = row.return_mean
    return -known if known is not None and math.isfinite(known) else math.inf


def _calm(row: RunRow) -> float:
    return math.inf if row.kind is VerdictKind.UNKNOWN else _BADNESS[row.kind]

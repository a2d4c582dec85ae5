"""The read wing: what anyone derives from a run's events, once, for every screen, command and file.

``open_run`` is for scripts and notebooks. For whoever draws: ``aggregator`` (events in, snapshots out), ``model``
(everything a screen shows), ``judged`` (the verdict), ``sentences``, ``numbers``, ``glyphs``, ``trend``, ``table``.
Needs neither torch nor the OpenTelemetry SDK, draws nothing and prints nothing.
"""

from __future__ import annotations

from esper_core.reading.account import SinkAccount
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.attempts import UpdateHistory, effective_updates
from esper_core.reading.condition import JournalCondition, journal_condition, run_faults
from esper_core.reading.index import UpdateIndex, scan_index
from esper_core.reading.judged import judge, run_verdict
from esper_core.reading.limits import run_limits
from esper_core.reading.run import Run, open_run
from esper_core.reading.snapshot import SanctumSnapshot
from esper_core.reading.stream import stream_updates
from esper_core.reading.tamiyo import TamiyoState

__all__ = [
    "JournalCondition",
    "Run",
    "SanctumAggregator",
    "SanctumSnapshot",
    "SinkAccount",
    "TamiyoState",
    "UpdateHistory",
    "UpdateIndex",
    "effective_updates",
    "journal_condition",
    "judge",
    "open_run",
    "run_faults",
    "run_limits",
    "run_verdict",
    "scan_index",
    "stream_updates",
]

"""A run on disk: where its files lie, whether it is alive, its journal, and ``open_run`` for scripts and notebooks.

Needs neither torch nor the OpenTelemetry SDK.
"""

from __future__ import annotations

from esper_core.runs.history import UpdateHistory, effective_updates, stream_updates
from esper_core.runs.index import UpdateIndex, scan_index
from esper_core.runs.layout import RunDir, create_run, find_run, list_runs
from esper_core.runs.process import ProcessIdentity, ProcessPresence, probe_process, process_identity
from esper_core.runs.reader import JournalProblem, JournalReader, journal_resource, read_events, tail_events
from esper_core.runs.resources import JournalResources
from esper_core.runs.run import Run, open_run, run_verdict
from esper_core.runs.state import RunRecord, SinkRecord, read_record, run_state, write_record
from esper_core.runs.writer import JournalWriter

__all__ = [
    "JournalProblem",
    "JournalReader",
    "JournalResources",
    "JournalWriter",
    "ProcessIdentity",
    "ProcessPresence",
    "Run",
    "RunDir",
    "RunRecord",
    "SinkRecord",
    "UpdateHistory",
    "UpdateIndex",
    "create_run",
    "effective_updates",
    "find_run",
    "journal_resource",
    "list_runs",
    "open_run",
    "probe_process",
    "process_identity",
    "read_events",
    "read_record",
    "run_state",
    "run_verdict",
    "scan_index",
    "stream_updates",
    "tail_events",
    "write_record",
]

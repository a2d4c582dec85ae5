"""A run on disk: paths and content of its files, and whether the run is alive. ``reading`` interprets the content.

Needs neither torch nor the OpenTelemetry SDK.
"""

from __future__ import annotations

from esper_core.runs.creation import create_run
from esper_core.runs.files import FileFault
from esper_core.runs.layout import RunDir
from esper_core.runs.lock import LockOwner, is_locked, lock_owner
from esper_core.runs.process import ProcessIdentity, ProcessPresence, probe_process, process_identity
from esper_core.runs.reader import JournalProblem, JournalReader, read_events, tail_events
from esper_core.runs.resources import JournalResources, journal_resource
from esper_core.runs.search import find_run, list_runs
from esper_core.runs.state import RunRecord, SinkRecord, read_record, read_state, run_state, write_record
from esper_core.runs.writer import JournalWriter

__all__ = [
    "FileFault",
    "JournalProblem",
    "JournalReader",
    "JournalResources",
    "JournalWriter",
    "LockOwner",
    "ProcessIdentity",
    "ProcessPresence",
    "RunDir",
    "RunRecord",
    "SinkRecord",
    "create_run",
    "find_run",
    "is_locked",
    "journal_resource",
    "list_runs",
    "lock_owner",
    "probe_process",
    "process_identity",
    "read_events",
    "read_record",
    "read_state",
    "run_state",
    "tail_events",
    "write_record",
]

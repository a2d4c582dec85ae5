"""Writes a heartbeat into ``run.json`` every five seconds, from a thread of the host, whatever the trainer does."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from esper_core.reading.account import to_record
from esper_core.runs.process import process_identity
from esper_core.runs.state import RunRecord, write_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from esper_core.health import RunState
    from esper_core.host.process.system import SystemProbe
    from esper_core.reading.account import SinkAccount
    from esper_core.runs.folder import Folder
    from esper_core.runs.layout import RunDir

__all__ = ["HEARTBEAT_S", "Heartbeat"]

HEARTBEAT_S = 5.0
_LAST_BEAT_S = 1.0


class Heartbeat:
    """Keeps a run's record ``run.json`` up to date.

    Args:
        run: the run whose ``run.json`` is written, or its directory held open; None writes nothing.
        record: its first record; process identity and times are filled in here.
        reports: returns the sinks' counters.
        tell: called with heartbeat and progress (unix seconds), the state and the system's record, for metrics.
        system: also look at what the process takes of the machine, in the heartbeat's thread.
        interval_s: seconds between two heartbeats.
    """

    def __init__(
        self,
        run: RunDir | Folder | None,
        record: RunRecord,
        reports: Callable[[], Iterable[SinkAccount]],
        *,
        tell: Callable[..., None] | None = None,
        system: bool = False,
        interval_s: float = HEARTBEAT_S,
    ) -> None:
        who = process_identity()
        now = time.time_ns()
        record.pid, record.host, record.boot_id = who.pid, who.host, who.boot_id
        record.pid_namespace, record.process_start = who.pid_namespace, who.process_start
        record.process_start_ns = who.process_start_ns
        record.started_ns = record.heartbeat_ns = record.progress_ns = now
        record.heartbeat_interval_s = interval_s
        self._run = run
        self._record = record
        self._reports = reports
        self._tell = tell
        self._interval_s = interval_s
        self._system = system
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._progress = (0, now, record.updates, record.env_steps)
        self._failed = False
        self._thread = threading.Thread(target=self._beat, name="esper-heartbeat", daemon=True)

    def start(self) -> None:
        """Write the first record, so that other processes find the run, and start the heartbeat thread."""
        self._write(durable=True)
        self._thread.start()

    def progress(self, *, updates: int, env_steps: int) -> None:
        """Record the trainer's progress. Assigns one tuple; the heartbeat thread writes it."""
        self._progress = (self._progress[0] + 1, time.time_ns(), updates, env_steps)

    def finish(self, state: RunState, message: str) -> None:
        """Stop the heartbeat and write how the run ended. Called after the sinks were closed."""
        self._stop.set()
        if self._thread.is_alive():  # a record that is being written, or a driver that is being loaded
            self._thread.join(_LAST_BEAT_S)
        with self._lock:
            self._record.state = state
            self._record.message = message
        self._write(durable=True)

    def in_child(self) -> None:
        """In a forked child: write nothing. Its thread, which may have held the lock, is gone."""
        self._lock = threading.Lock()
        self._run = self._tell = None

    def _beat(self) -> None:
        probe = self._probe() if self._system else None
        if probe is not None:
            self._record.system = probe.read()
        while not self._stop.wait(self._interval_s):
            if probe is not None:
                self._record.system = probe.read()
            self._write(durable=False)

    @staticmethod
    def _probe() -> SystemProbe:
        from esper_core.host.process.system import SystemProbe  # noqa: PLC0415  # loads a driver, in this thread

        return SystemProbe()

    def _write(self, *, durable: bool) -> None:
        with self._lock:
            if self._stop.is_set() and not durable:
                return  # the end is written, or about to be
            record = self._record
            record.heartbeat_ns = time.time_ns()
            record.progress, record.progress_ns, record.updates, record.env_steps = self._progress
            if self._tell is not None:
                self._tell(
                    heartbeat_s=record.heartbeat_ns / 1e9,
                    progress_s=record.progress_ns / 1e9,
                    state=record.state,
                    system=record.system,
                )
            if self._run is None:
                return
            record.sinks = [to_record(account) for account in self._reports()]
            try:
                write_record(self._run, record, durable=durable)
            except OSError as error:
                if not self._failed:
                    logging.getLogger("esper.host").warning("run.json cannot be written: %s", error)
                self._failed = True
            else:
                self._failed = False

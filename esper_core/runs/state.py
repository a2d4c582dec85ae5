"""``run.json``, the record of a run, and :func:`run_state`, which derives from it whether the run is alive.

The host in the training process replaces the file atomically and writes a heartbeat every ``heartbeat_interval_s``;
the trainer counts ``progress``. All code that shows a run's state calls :func:`run_state`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct, field

from esper_core.errors import JournalError
from esper_core.events import SinkState  # noqa: TC001  # msgspec reads it at run time
from esper_core.health import RunState
from esper_core.runs.files import FileFault, fault_of, file_fault, read_bytes
from esper_core.runs.folder import Folder
from esper_core.runs.process import ProcessPresence, probe_process
from esper_core.runs.ranks import RankRecord  # noqa: TC001  # msgspec reads it at run time
from esper_core.runs.reserve import replace_reserved

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.runs.layout import RunDir

__all__ = [
    "FIRST_PROGRESS_S",
    "LATE_FACTOR",
    "STALL_FACTOR",
    "STALL_MIN_S",
    "GPURecord",
    "RunRecord",
    "SinkRecord",
    "StartRecord",
    "SystemRecord",
    "read_record",
    "read_state",
    "record_fault",
    "run_state",
    "write_record",
]

LATE_FACTOR: Final = 3.0
"""A heartbeat is late after this many promised intervals."""
STALL_MIN_S: Final = 60.0
"""Seconds without progress that never count as a stall."""
STALL_FACTOR: Final = 10.0
"""A run is stalled after this many times its mean time between two counts of progress."""
FIRST_PROGRESS_S: Final = 120.0
"""Seconds that a run may take until its first progress, in which data sets are generated and networks compiled."""


class SinkRecord(Struct, kw_only=True):
    """One sink's account in ``run.json``.

    Attributes:
        name: the sink's name.
        distribution: the distribution it came from; empty for a file.
        version: that distribution's version.
        state: as in ``SinkStatusChanged``.
        delivered: events delivered so far.
        lost: events lost so far.
        failures: calls that raised so far.
        queued: events in its channel now.
        capacity: events the channel holds; 0 for an inline sink.
        lag_s: seconds the oldest waiting event has waited; None for an inline sink.
        message: the last failure, as text.
        keeps_record: whether it keeps the run's record; None in files of 0.1, which lack the field.
    """

    name: str
    distribution: str = ""
    version: str = ""
    state: SinkState = "ok"
    delivered: int = 0
    lost: int = 0
    failures: int = 0
    queued: int = 0
    capacity: int = 0
    lag_s: float | None = None
    message: str = ""
    keeps_record: bool | None = None


class StartRecord(Struct, kw_only=True, frozen=True):
    """How an attempt was started. Secrets are masked.

    Attributes:
        command: the command line, word by word.
        directory: the working directory.
        origins: dotted key of the configuration -> where its value came from; keys at their default are left out.
    """

    command: tuple[str, ...] = ()
    directory: str = ""
    origins: dict[str, str] = field(default_factory=dict)


class GPURecord(Struct, kw_only=True, frozen=True):
    """One GPU that the trainer's process computes on.

    Attributes:
        id: its UUID.
        name: as its driver names it.
        utilization: share of the last sampling period in which it computed, for whomever, 0..1; None when unknown.
        memory: bytes that the trainer holds; None when the driver does not tell.
        memory_limit: bytes that the GPU has; None when unknown.
    """

    id: str = ""
    name: str = ""
    utilization: float | None = None
    memory: int | None = None
    memory_limit: int | None = None


class SystemRecord(Struct, kw_only=True, frozen=True):
    """What the trainer's process and its children take of the machine, at the last heartbeat.

    Attributes:
        cpu_cores: CPU time a second since the heartbeat before, in cores; None at the first one.
        cpu_count: logical CPUs that the process may use.
        cpu_user_s: CPU seconds so far outside the kernel.
        cpu_system_s: CPU seconds so far in the kernel.
        memory: resident bytes; memory that processes share counts in each.
        memory_limit: bytes of the machine or the container; None when unknown.
        threads: of the trainer's process alone.
        gpus: those that the process computes on.
    """

    cpu_cores: float | None = None
    cpu_count: int = 1
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    memory: int = 0
    memory_limit: int | None = None
    threads: int = 0
    gpus: tuple[GPURecord, ...] = ()


class RunRecord(Struct, kw_only=True):
    """``run.json``. Times are unix nanoseconds. Unknown fields of a newer version are ignored.

    Attributes:
        run_id: the run.
        name: the name that the user gave; may be empty.
        environment: the environment's id.
        state: live until the host writes how it ended; read it through :func:`run_state`.
        attempt: the attempt that wrote this; counts from 1.
        ranks: how many processes train together, of which rank 0 writes this.
        processes: of every rank, in their order; empty with one rank, and in files of 0.1.
        pid: process id of the trainer, in its own pid namespace.
        host: host name.
        boot_id: identifies one boot of the host; empty when the system has none.
        pid_namespace: distinguishes containers; empty when the system has none.
        process_start: when the process began, in clock ticks since boot: detects a reused pid; 0 when unknown.
        process_start_ns: the same moment in unix nanoseconds, for systems whose boot time moves with the clock; 0 when
            unknown.
        started_ns: when this attempt began.
        heartbeat_ns: the last heartbeat of the host's heartbeat thread.
        heartbeat_interval_s: the seconds between two heartbeats.
        progress: increases whenever the trainer makes progress, within this attempt.
        progress_ns: when ``progress`` last increased.
        updates: PPO updates over all attempts.
        env_steps: environment steps over all attempts.
        message: how it ended, as text.
        start: how this attempt was started; None in files of 0.1.
        system: what the trainer takes of the machine; None when that is switched off or not known.
        sinks: one account a sink.
    """

    run_id: str
    name: str = ""
    environment: str = ""
    state: RunState = RunState.LIVE
    attempt: int = 1
    ranks: int = 1
    processes: tuple[RankRecord, ...] = ()
    pid: int = 0
    host: str = ""
    boot_id: str = ""
    pid_namespace: str = ""
    process_start: int = 0
    process_start_ns: int = 0
    started_ns: int = 0
    heartbeat_ns: int = 0
    heartbeat_interval_s: float = 5.0
    progress: int = 0
    progress_ns: int = 0
    updates: int = 0
    env_steps: int = 0
    message: str = ""
    start: StartRecord | None = None
    system: SystemRecord | None = None
    sinks: list[SinkRecord] = field(default_factory=list)


_decoder: Final = msgspec.json.Decoder(RunRecord)


def read_record(run: RunDir) -> RunRecord | None:
    """Read ``run.json``; None when it is missing or no valid record (for example truncated by a power loss)."""
    try:
        return _decode(run)
    except (OSError, JournalError):
        return None


def record_fault(run: RunDir) -> FileFault | None:
    """Why ``run.json`` cannot be read; None when it can be, or when there is none."""
    fault = file_fault(run.record_path)
    if fault is not None:
        return fault
    try:
        _decode(run)
    except FileNotFoundError:
        return None
    except (OSError, JournalError) as error:
        return fault_of(run.record_path, error)
    return None


def _decode(run: RunDir) -> RunRecord:
    """Read ``run.json``.

    Raises:
        OSError: it is missing or cannot be read.
        JournalError: it holds no record.
    """
    content = read_bytes(run.record_path)
    try:
        return _decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise JournalError(f"is no record of a run ({error})" if content else "is empty") from None


def read_state(run: RunDir, *, now_ns: int | None = None) -> tuple[RunRecord | None, RunState]:
    """Read ``run.json`` and say what the run does, so that the two belong together.

    A process that is gone may have written its end just after the file was read: then it is read again.

    Args:
        run: the run.
        now_ns: unix nanoseconds; None reads the clock.
    """
    record = read_record(run)
    state = run_state(record, now_ns=now_ns)
    if state is RunState.CRASHED:
        record = read_record(run) or record
        state = run_state(record, now_ns=now_ns)
    return record, state


def write_record(run: RunDir | Folder, record: RunRecord, *, durable: bool = True) -> None:
    """Replace ``run.json`` atomically: a reader reads the old record or the new one, never a part of one.

    Args:
        run: the run, or its directory held open.
        record: what to write. It is encoded at once; one thread at a time may change it.
        durable: also force it to the disk (fsync), for changes of state. A heartbeat passes False: it has no use
            after a power loss.

    Raises:
        OSError: disk full, read-only, run deleted. The old record is still there.
    """
    content = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    if isinstance(run, Folder):
        replace_reserved(run, "run.json", content, durable=durable)
        return
    with Folder(run.path) as folder:
        folder.replace("run.json", content, durable=durable)


def run_state(
    record: RunRecord | None,
    *,
    now_ns: int | None = None,
    probe: Callable[[RunRecord], ProcessPresence] = probe_process,
) -> RunState:
    """The state of the run, for all code that shows it; :func:`read_state` reads the record and asks this.

    * An end that the host wrote (done, stopped, failed) is final.
    * A process that is gone has crashed, at once: gone is said only of a process of this machine, looked for in the pid
      namespace and the boot in which it ran. The record must have been read after the process was gone, else its end
      may have been missed.
    * Otherwise the heartbeat decides. Within three intervals of now the run is live, or stalled when it made no
      progress for ``max(60 s, 10 x its mean time between two counts)``, or for 120 s before its first count. So a pid
      that cannot be looked for from here (another host, another container) never makes a live run appear crashed.
      Clocks of hosts that share runs must agree within those three intervals; a heartbeat from further in the future
      counts as late. A late heartbeat is crashed when the host has booted since, else stale: the process exists
      (suspended, or its disk hangs), or nobody here can tell.

    Args:
        record: the content of ``run.json``; None gives UNKNOWN.
        now_ns: unix nanoseconds; None reads the clock.
        probe: looks for the process.
    """
    if record is None:
        return RunState.UNKNOWN
    if record.state.ended:
        return record.state
    presence = probe(record)
    if presence is ProcessPresence.GONE:
        return RunState.CRASHED
    now = time.time_ns() if now_ns is None else now_ns
    late_ns = LATE_FACTOR * record.heartbeat_interval_s * 1e9
    if abs(now - record.heartbeat_ns) <= late_ns:
        return RunState.STALLED if _stalled(record, now) else RunState.LIVE
    return RunState.CRASHED if presence is ProcessPresence.BOOTED else RunState.STALE


def _stalled(record: RunRecord, now: int) -> bool:
    """True when the run made no progress for much longer than it usually takes."""
    if record.progress == 0:
        return now - record.started_ns > FIRST_PROGRESS_S * 1e9
    mean_ns = (record.progress_ns - record.started_ns) / record.progress
    return now - record.progress_ns > max(STALL_MIN_S * 1e9, STALL_FACTOR * mean_ns)

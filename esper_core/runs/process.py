"""The identity of a process: distinguishes it from one with the same pid in another container or after a reboot."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

__all__ = ["ProcessIdentity", "ProcessPresence", "probe_process", "process_identity"]

_START_FIELD = 19  # field 22 of /proc/PID/stat, counted from the first one after the command's ")"


class ProcessPresence(StrEnum):
    """Whether a run's process exists, as far as this process can determine."""

    ALIVE = "alive"
    GONE = "gone"
    UNKNOWABLE = "unknowable"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """A process's identity as ``run.json`` stores it; see ``RunRecord`` for the fields."""

    pid: int
    host: str
    boot_id: str
    pid_namespace: str
    process_start: int


def process_identity() -> ProcessIdentity:
    """The calling process. Fields that the system does not have (macOS: boot id, namespace, start) are empty."""
    pid = os.getpid()
    try:
        start = _process_start(pid) or 0
    except OSError:
        start = 0
    return ProcessIdentity(
        pid=pid,
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        process_start=start,
    )


class RecordedProcess(Protocol):
    """The identity of the process that wrote a ``run.json``."""

    pid: int
    host: str
    boot_id: str
    pid_namespace: str
    process_start: int


def probe_process(record: RecordedProcess) -> ProcessPresence:
    """Look for the process that wrote the record.

    Boot id and pid namespace decide, not the host name: containers of one machine have different host names, and two
    machines may have the same one.
    """
    boot = _boot_id()
    if not boot or not record.boot_id:
        return _signalled(record.pid) if record.host == socket.gethostname() else ProcessPresence.UNKNOWABLE
    if record.boot_id != boot:
        booted_since = record.host == socket.gethostname()
        return ProcessPresence.GONE if booted_since else ProcessPresence.UNKNOWABLE
    if not record.pid_namespace or record.pid_namespace != _pid_namespace():
        return ProcessPresence.UNKNOWABLE
    try:
        start = _process_start(record.pid)
    except OSError:  # no such process, or a process of another user that the system hides (hidepid)
        hidden = _signalled(record.pid) is not ProcessPresence.GONE
        return ProcessPresence.UNKNOWABLE if hidden else ProcessPresence.GONE
    if start is None or (record.process_start and start != record.process_start):
        return ProcessPresence.GONE
    return ProcessPresence.ALIVE


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process_start(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None when it has ended and is a zombie (not yet reaped).

    Raises:
        OSError: no such process here, or no /proc.
    """
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    after_name = stat.rpartition(b")")[2].split()
    if not after_name or after_name[0] in {b"Z", b"X"}:
        return None
    return int(after_name[_START_FIELD])


def _signalled(pid: int) -> ProcessPresence:
    """Without /proc (macOS): whether a signal could be sent. A reused pid cannot be detected."""
    if pid <= 0:
        return ProcessPresence.UNKNOWABLE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ProcessPresence.GONE
    except PermissionError:
        return ProcessPresence.ALIVE
    return ProcessPresence.ALIVE

"""The identity of a process: distinguishes it from one with the same pid in another container or after a reboot.

psutil looks for processes, on Linux and macOS alike; it is imported with the first question.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

__all__ = ["ProcessIdentity", "ProcessPresence", "probe_process", "process_identity"]

_SAME_START_S: Final = 2.0
"""Seconds by which two measurements of one process's start may differ; nobody reuses a pid that fast."""


class ProcessPresence(StrEnum):
    """Whether a run's process exists, as far as this process can determine."""

    ALIVE = "alive"
    GONE = "gone"
    """Looked for and not found, where it ran."""
    BOOTED = "booted"
    """A host of that name has booted since; another machine may have the same name."""
    UNKNOWABLE = "unknowable"


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """A process's identity as ``run.json`` stores it; see ``RunRecord`` for the fields."""

    pid: int
    host: str
    boot_id: str
    pid_namespace: str
    process_start: int
    process_start_ns: int


def process_identity() -> ProcessIdentity:
    """The calling process. Fields that the system does not have (macOS: boot id and namespace) are empty."""
    pid = os.getpid()
    start = _start(pid)
    return ProcessIdentity(
        pid=pid,
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        process_start=start.ticks if start is not None else 0,
        process_start_ns=start.unix_ns if start is not None else 0,
    )


class RecordedProcess(Protocol):
    """The identity of the process that wrote a ``run.json``."""

    pid: int
    host: str
    boot_id: str
    pid_namespace: str
    process_start: int
    process_start_ns: int


def probe_process(record: RecordedProcess) -> ProcessPresence:
    """Look for the process that wrote the record.

    Host name, boot id and pid namespace must be those of this process: else a pid means nothing here, because
    containers of one machine have different namespaces, and clones of a virtual machine share a boot id.
    """
    if record.host != socket.gethostname():
        return ProcessPresence.UNKNOWABLE
    boot = _boot_id()
    if boot and record.boot_id and record.boot_id != boot:
        return ProcessPresence.BOOTED
    if bool(boot) != bool(record.boot_id) or record.pid_namespace != _pid_namespace():
        return ProcessPresence.UNKNOWABLE
    return _look_for(record)


@dataclass(frozen=True, slots=True)
class _Start:
    """When a process began: in clock ticks since boot, and in unix nanoseconds."""

    ticks: int
    unix_ns: int

    def fits(self, record: RecordedProcess) -> bool:
        """Whether it is the recorded start. A step of the system's clock moves one of the two, never both."""
        near = _SAME_START_S * os.sysconf("SC_CLK_TCK")
        by_boot = bool(record.process_start) and abs(self.ticks - record.process_start) <= near
        by_clock = bool(record.process_start_ns) and abs(self.unix_ns - record.process_start_ns) <= _SAME_START_S * 1e9
        return by_boot or by_clock or not (record.process_start or record.process_start_ns)


def _look_for(record: RecordedProcess) -> ProcessPresence:
    """Look for a process of this machine by pid and start."""
    import psutil  # noqa: PLC0415  # 16 ms, which only this question costs

    if record.pid <= 0:
        return ProcessPresence.UNKNOWABLE
    try:
        start = _start(record.pid)
    except psutil.AccessDenied:
        return ProcessPresence.ALIVE
    if start is not None:
        return ProcessPresence.ALIVE if start.fits(record) else ProcessPresence.GONE
    # No such process, a zombie (not yet reaped), or one of another user that the system hides (hidepid).
    try:
        os.kill(record.pid, 0)
        hidden = not psutil.pid_exists(record.pid)
    except PermissionError:
        hidden = True
    except (ProcessLookupError, OverflowError):
        hidden = False
    return ProcessPresence.UNKNOWABLE if hidden else ProcessPresence.GONE


def _start(pid: int) -> _Start | None:
    """When a process began; None when there is none, or when it has ended and is not yet reaped.

    Raises:
        psutil.AccessDenied: it exists, and the system tells this user nothing of it.
    """
    import psutil  # noqa: PLC0415  # as above

    try:
        process = psutil.Process(pid)
        if process.status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}:
            return None
        booted = psutil.boot_time()  # before the start: psutil computes that from the same boot time
        began = process.create_time()
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return None
    return _Start(round((began - booted) * os.sysconf("SC_CLK_TCK")), round(began * 1e9))


def _boot_id() -> str:
    """What no library tells: a new one each boot. Empty on systems without it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """What no library tells either: the container in which pids count. Empty on systems without it."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""

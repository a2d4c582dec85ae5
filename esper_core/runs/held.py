"""A run as its trainer holds it: the directory open, locked against a second trainer, with room kept for its end."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from esper_core.errors import EsperError, UsageError
from esper_core.runs.folder import Folder
from esper_core.runs.layout import RunDir
from esper_core.runs.lock import LOCK_NAME, LockHeldError, RunLock, lock_owner
from esper_core.runs.process import ProcessPresence, probe_process, process_identity
from esper_core.runs.reserve import drop_reserve, keep_reserve

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from esper_core.runs.lock import LockOwner
    from esper_core.runs.state import RunRecord

__all__ = ["HeldRun"]

_RESERVED: Final = ("run.json", "summary.json")
_LITTER: Final = (".partial", ".tmp")
_TRIES: Final = 10
_PAUSE_S: Final = 0.02


class HeldRun:
    """Holds a run's directory open, and its lock, until it is closed.

    Args:
        run: the run; its directory exists.
        lock: take the lock; False for ranks above 0, whose trainer's rank 0 has it.
        on_notice: called with a line of text when the directory was deleted, and when the lock was lost.

    Attributes:
        folder: the directory; what is written goes through it.
        former: the process that held the lock before and did not release it: it is gone. None when there was none.

    Raises:
        UsageError: another trainer holds the lock.
        EsperError: the directory cannot be opened or written.
    """

    def __init__(self, run: RunDir, *, lock: bool = True, on_notice: Callable[[str], object] | None = None) -> None:
        self.on_notice = on_notice
        self.former: LockOwner | None = None
        self._pid = os.getpid()
        self._run_id = run.run_id
        self._lock: RunLock | None = None
        self._begun = False
        self._troubled = False
        self._contents: dict[str, bytes] = {}
        try:
            self.folder = Folder(run.path, on_renewed=self._renewed)
        except OSError as error:
            raise EsperError(f"cannot open {run.path}: {error.strerror}", hint="check its rights") from error
        if lock:
            try:
                self._lock = RunLock(self.folder)
            except LockHeldError:
                self.folder.close()
                raise _refusal(run) from None
            except OSError as error:
                self.folder.close()
                raise EsperError(
                    f"cannot lock {run.path / LOCK_NAME}: {error.strerror}", hint="free some space, or check its rights"
                ) from error
            self.former = self._lock.former

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def run(self) -> RunDir:
        """The run, at the path where its directory is now."""
        return RunDir(self.folder.path, self._run_id)

    @property
    def unlocked(self) -> str:
        """Why nothing keeps a second trainer out, as a line; empty when the lock does, or another rank has it."""
        if self._lock is None or not self._lock.missing:
            return ""
        return f"no lock on {self.folder.path} ({self._lock.missing}): do not resume this run while it trains"

    def outlived(self, record: RunRecord) -> bool:
        """Whether the trainer that wrote this record is known to be gone: it held the lock, on this kernel, until then.

        This tells of a trainer in another container, whose pid cannot be seen from here.
        """
        mine, former = process_identity(), self.former
        if former is None or not mine.boot_id or former.boot_id != mine.boot_id:
            return False
        same = ("pid", "host", "boot_id", "pid_namespace", "process_start")
        return all(getattr(record, name) == getattr(former, name) for name in same)

    def write(self, name: str, content: bytes) -> None:
        """Write a file that stays as it is for the whole attempt; it is written again with a deleted directory.

        Raises:
            OSError: it cannot be written; an old one is still there.
        """
        self.folder.replace(name, content)
        self._contents[name] = content

    def check(self) -> None:
        """Make a deleted directory again, take a dropped lock again, and say once what cannot be done. Never raises."""
        try:
            self.folder.check()
            if self._lock is not None and self._lock.lost:
                self._lock = RunLock(self.folder)
        except LockHeldError:
            self._trouble("another trainer has taken this run's lock, which something in this process had closed")
        except OSError as error:
            self._trouble(f"{self.folder.path} was deleted and cannot be made again: {error.strerror}")
        else:
            self._troubled = False

    def close(self) -> None:
        """Give back the room kept, release the lock and close the directory. A second call does nothing."""
        if os.getpid() != self._pid:
            return  # a forked child: the run belongs to the parent process
        if self._lock is not None:
            if self._begun:
                for name in _RESERVED:
                    drop_reserve(self.folder, name)
            self._lock.release(unused=not self._begun)
        self.folder.close()

    def begin(self) -> None:
        """The attempt begins: keep room for a full disk, and delete what a killed trainer left half written.

        Nothing but the lock's file is written before, so that a refused attempt changes nothing.
        """
        if self._lock is None or self._begun:
            return
        self._begun = True
        with contextlib.suppress(OSError):
            for name in self.folder.names():
                if name.startswith(".") and name.endswith(_LITTER) and not self._lock.missing:
                    self.folder.unlink(name)
        for name in _RESERVED:
            keep_reserve(self.folder, name)

    def _renewed(self, line: str) -> None:
        """The directory was deleted and made again: the new one has no lock."""
        if self._lock is not None:
            try:
                former, self._lock = self._lock, RunLock(self.folder)
                former.release()
            except (LockHeldError, OSError) as error:
                line = f"{line}; its new lock could not be taken ({error or 'another trainer has it'})"
            if self._begun:
                for name in _RESERVED:
                    keep_reserve(self.folder, name)
        with contextlib.suppress(OSError):
            for name, content in self._contents.items():
                self.folder.replace(name, content)
        self._say(line)

    def _trouble(self, line: str) -> None:
        first, self._troubled = not self._troubled, True
        if first:
            self._say(line)

    def _say(self, line: str) -> None:
        if self.on_notice is not None:
            with contextlib.suppress(Exception):  # a terminal that is gone ends no training
                self.on_notice(line)


def _refusal(run: RunDir) -> UsageError:
    """The error of a second trainer: it names the first, when that has written who it is."""
    owner = lock_owner(run)
    for _ in range(_TRIES):
        if owner is not None and probe_process(owner) is not ProcessPresence.GONE:
            break
        time.sleep(_PAUSE_S)  # the first one has just taken the lock, and writes
        owner = lock_owner(run)
    if owner is None:
        return UsageError(f"run {run.run_id} is being trained by another process", hint="wait until it ends")
    who = f"pid {owner.pid} on {owner.host}"
    if probe_process(owner) is ProcessPresence.GONE:
        return UsageError(
            f"run {run.run_id} is locked by a process that its trainer ({who}, gone) left behind",
            hint=f"end that process; it is found with: fuser {run.path / LOCK_NAME}",
        )
    if probe_process(owner) is not ProcessPresence.ALIVE:  # on another host or in a container: another's pid here
        return UsageError(f"run {run.run_id} is being trained ({who})", hint="wait until it ends, or stop it there")
    if owner.pid == os.getpid():
        return UsageError(f"run {run.run_id} is being trained by this process ({who})", hint="wait until it ends")
    return UsageError(
        f"run {run.run_id} is being trained ({who})", hint=f"wait until it ends, or stop it: kill {owner.pid}"
    )

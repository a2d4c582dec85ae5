"""The lock of a run: one trainer at a time writes into a run's directory.

It is a lock of the kernel on a file of its own, and ends with the process that holds it, however that ends. The file's
content names the holder for people, and decides nothing. Linux and macOS have locks that belong to the open file
(``F_OFD_SETLK``): they hold between threads of one process too, no other descriptor's closing drops them, and a reader
can ask for them without taking them. Elsewhere ``flock`` is used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import sys
import time
import weakref
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from esper_core.runs.process import process_identity

if TYPE_CHECKING:
    from esper_core.runs.folder import Folder
    from esper_core.runs.layout import RunDir

__all__ = ["LOCK_NAME", "LockHeldError", "LockOwner", "RunLock", "is_locked", "lock_owner"]

LOCK_NAME: Final = "trainer.lock"
_OWN_FILE: Final = hasattr(fcntl, "F_OFD_SETLK") and hasattr(fcntl, "F_OFD_GETLK")
_HELD: Final = frozenset({errno.EAGAIN, errno.EACCES})
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_TRIES: Final = 10
_PAUSE_S: Final = 0.02
_WORDS_LIMIT: Final = 4096


class LockOwner(Struct, kw_only=True):
    """The process that took a lock, as the lock's file names it; see ``RunRecord`` for the fields."""

    pid: int
    host: str
    boot_id: str
    pid_namespace: str
    process_start: int
    process_start_ns: int = 0


_words: Final = msgspec.json.Decoder(LockOwner)


class LockHeldError(Exception):
    """Another holder has the lock."""


class RunLock:
    """Takes the lock of a run's directory, and holds it until :meth:`release` or the end of the process.

    A forked child closes its copy of the descriptor at once: else it would hold the lock after the trainer's death.

    Args:
        folder: the run's directory.

    Attributes:
        former: the process that held the lock before and did not release it; None when there is none.
        missing: why the file system gives no lock, as text; empty when it does.

    Raises:
        LockHeldError: another trainer holds it.
        OSError: the file cannot be made or opened.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._fd: int | None = None
        self._inode = (0, 0)
        self.former: LockOwner | None = None
        self.missing = ""
        for last in (False,) * _TRIES + (True,):
            fd = folder.open(LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK)
            self._fd = fd
            self._inode = _inode(os.fstat(fd))
            _held.add(self)
            try:
                self._take(fd)
            except BaseException:
                self._close()
                raise
            if last or self._is_the_file(fd):  # some file systems in user space number a file anew when asked
                break
            self._close()  # the holder before deleted the file while we waited for it
        if not self.missing:
            self.former = _read_words(fd)
            self._write_words(fd, msgspec.convert(process_identity(), LockOwner, from_attributes=True))

    @property
    def lost(self) -> bool:
        """Whether someone closed the descriptor (closerange), and dropped the lock with it."""
        return self._fd is not None and not self._is_open(self._fd)

    def release(self, *, unused: bool = False) -> None:
        """Delete the file and release the lock. A second call, or one in a forked child, does nothing.

        Args:
            unused: nothing was done under the lock: the file is left as it was found, with the words of a trainer that
                ended without releasing it.
        """
        fd = self._fd
        if fd is None:
            return
        if unused and self.former is not None and self._is_open(fd):
            self._write_words(fd, self.former)
        elif not self.missing and self._is_the_file(fd):
            self._folder.unlink(LOCK_NAME)
        self._close()

    def _take(self, fd: int) -> None:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", LOCK_NAME)
        for last in (False,) * _TRIES + (True,):
            try:
                _set_lock(fd)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    self.missing = error.strerror or errno.errorcode[error.errno or 0]
                    return
                if error.errno not in _HELD:
                    raise
                # A reader that has no other way to ask holds a flock for some microseconds.
                if _OWN_FILE or last:
                    raise LockHeldError from error
            else:
                return
            time.sleep(_PAUSE_S)

    def _is_the_file(self, fd: int) -> bool:
        """Whether the descriptor is still of the file that bears the name."""
        try:
            found = self._folder.stat(LOCK_NAME)
        except OSError:
            return False
        return found is not None and self._is_open(fd) and _inode(found) == self._inode

    def _is_open(self, fd: int) -> bool:
        """Whether the descriptor is still open, and of the lock's file."""
        try:
            return _inode(os.fstat(fd)) == self._inode
        except OSError:
            return False

    @staticmethod
    def _write_words(fd: int, owner: LockOwner) -> None:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without words
            os.ftruncate(fd, 0)
            os.pwrite(fd, msgspec.json.encode(owner) + b"\n", 0)

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        _held.discard(self)
        if fd is not None and self._is_open(fd):
            with contextlib.suppress(OSError):
                os.close(fd)


def is_locked(run: RunDir) -> bool | None:
    """Whether a process holds the run's lock now: a sign that its trainer lives. Asks without taking it.

    Returns:
        None when there is no answer: the run ended in order (which deletes the file), it was written by a version
        without locks, or its file system has none.
    """
    fd = _opened(run)
    if fd is None:
        return None
    try:
        return _ask(fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def lock_owner(run: RunDir) -> LockOwner | None:
    """The process that took the run's lock last, in its own words; it may be gone. None when nothing says so."""
    fd = _opened(run)
    if fd is None:
        return None
    try:
        return _read_words(fd)
    finally:
        os.close(fd)


# --- the kernel ---------------------------------------------------------------------------------


def _set_lock(fd: int) -> None:
    if _OWN_FILE:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _request(fcntl.F_WRLCK))
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel that knows the number and not the lock
                raise
        else:
            return
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _ask(fd: int) -> bool:
    if _OWN_FILE:
        with contextlib.suppress(OSError):
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK))
            return _kind(answer) != fcntl.F_UNLCK
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return True
        raise
    return False


def _request(kind: int) -> bytes:
    """C's ``struct flock`` for the whole file."""
    if sys.platform == "darwin":
        return struct.pack("@qqihh", 0, 0, 0, kind, os.SEEK_SET)
    return struct.pack("@hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)


def _kind(answer: bytes) -> int:
    at = struct.calcsize("@qqi") if sys.platform == "darwin" else 0
    return int(struct.unpack_from("@h", answer, at)[0])


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


# --- words --------------------------------------------------------------------------------------


def _opened(run: RunDir) -> int | None:
    """The lock's file, open for reading; None when there is no such regular file."""
    try:
        fd = os.open(run.path / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def _read_words(fd: int) -> LockOwner | None:
    try:
        return _words.decode(os.pread(fd, _WORDS_LIMIT, 0))
    except (OSError, msgspec.MsgspecError):
        return None


# --- forked children ----------------------------------------------------------------------------

_held: Final[weakref.WeakSet[RunLock]] = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_held):
        lock._close()  # noqa: SLF001  # the class is this module's own


os.register_at_fork(after_in_child=_close_in_child)

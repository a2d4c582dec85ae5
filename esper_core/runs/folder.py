"""A directory held open by the process that writes into it, so that neither ``chdir`` nor a rename loses its files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["FULL", "Folder"]

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a disk, or a quota, that is full."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""Error numbers of a process, or a machine, that has no descriptor left."""
_BY_HANDLE: Final = {os.open, os.stat, os.rename, os.unlink, os.mkdir, os.link} <= os.supports_dir_fd
_MODE: Final = 0o666  # less the umask


class Folder:
    """A directory, reached through a descriptor of it (``dir_fd``).

    Files are opened, replaced and removed in the directory itself, whatever the working directory is and wherever the
    directory has been moved to. A directory that was deleted is made again at its first path by the next write: a
    trainer needs a place for its policy. A descriptor is kept in reserve, so that a file is written when an environment
    has leaked all others. Systems without ``dir_fd`` use the absolute path. Thread-safe.

    Names are relative to the directory, such as ``run.json`` or ``telemetry/1-0-0001.otlp.jsonl``.

    Args:
        path: the directory; it exists.
        on_renewed: called with a line of text after a deleted directory was made again, in the calling thread.

    Raises:
        OSError: there is no such directory.
    """

    def __init__(self, path: Path, *, on_renewed: Callable[[str], object] | None = None) -> None:
        self._home = path.absolute()
        self._on_renewed = on_renewed
        self._lock = threading.RLock()
        self._identity = (0, 0)
        self._counts_links = False
        self._fd: int | None = None
        self._spare: int | None = None
        self._closed = False
        self._hold(self._opened())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """Where the directory is now; its first path where the system cannot tell."""
        for place in (self._home, *_path_of(self._fd)):
            with contextlib.suppress(OSError):
                if _identity(place.stat()) == self._identity:
                    return place
        return self._home

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        with self._lock:
            if self._fd is not None and not self._closed and self._is_ours():
                os.close(self._fd)
            self._give_spare()
            self._closed = True
            self._fd = None

    # --- files --------------------------------------------------------------------------------

    def open(self, name: str, flags: int, mode: int = _MODE) -> int:
        """Open a file and return its descriptor; with ``O_CREAT`` its folder is made when it is missing.

        Raises:
            OSError: as ``os.open``.
        """
        self.check()
        flags |= os.O_CLOEXEC
        self._keep_spare()
        try:
            return os.open(self._at(name), flags, mode, dir_fd=self._fd)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
        except OSError as error:
            if error.errno not in _EXHAUSTED or not self._give_spare():
                raise
            return os.open(self._at(name), flags, mode, dir_fd=self._fd)
        self._make_parent(name)
        return os.open(self._at(name), flags, mode, dir_fd=self._fd)

    def opener(self, name: str, flags: int) -> int:
        """Open a file for the argument ``opener`` of :func:`open`."""
        return self.open(name, flags)

    def stat(self, name: str) -> os.stat_result | None:
        """The file's ``stat``; None when there is no file of that name."""
        self._regain()
        try:
            return os.stat(self._at(name), dir_fd=self._fd)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, inside: str = ".") -> list[str]:
        """Names in the directory, or in a folder of it; empty when that folder is missing.

        Raises:
            OSError: it cannot be read.
        """
        self._regain()
        try:
            if self._fd is None:
                return [item.name for item in (self._home / inside).iterdir()]
            listed = os.open(inside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            return []
        try:
            return os.listdir(listed)  # noqa: PTH208  # a descriptor is no path
        finally:
            os.close(listed)

    def unlink(self, name: str) -> None:
        """Delete a file; nothing happens when it is missing or may not be deleted."""
        with contextlib.suppress(OSError):
            self._regain()
            os.unlink(self._at(name), dir_fd=self._fd)

    def rename(self, name: str, target: str) -> None:
        """Rename a file; a file of the target's name is replaced."""
        os.replace(self._at(name), self._at(target), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def link(self, name: str, target: str) -> None:
        """Give a file a second name."""
        os.link(self._at(name), self._at(target), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def replace(self, name: str, write: Callable[[IO[bytes]], object] | bytes, *, durable: bool = True) -> None:
        """Replace a file atomically: a reader, or a crash at any moment, finds the old file or the new one.

        Args:
            name: the file.
            write: its content, or a function that writes the content into an open file.
            durable: also force file and directory to the disk (fsync).

        Raises:
            OSError: disk full, read-only. The old file is still there, and nothing is left beside it.
            Exception: what ``write`` raises; as above.
        """
        partial = f".{name}.{os.getpid()}.{threading.get_ident()}.partial"
        try:
            with open(partial, "wb", opener=self.opener) as file:
                if isinstance(write, bytes):
                    file.write(write)
                else:
                    write(file)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            self.rename(partial, name)
        except BaseException:
            self.unlink(partial)
            raise
        finally:
            self._keep_spare()  # at once: who leaks descriptors takes the one that was just closed
        if durable:
            self.sync()

    def sync(self, inside: str = "") -> None:
        """Force the entries of the directory, or of a folder in it, to the disk, where the file system can."""
        with contextlib.suppress(OSError):
            if inside and self._fd is not None:
                listed = os.open(inside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
                try:
                    os.fsync(listed)
                finally:
                    os.close(listed)
            elif self._fd is not None:
                os.fsync(self._fd)

    # --- the directory itself -----------------------------------------------------------------

    def check(self) -> None:
        """Make the directory again when it was deleted; takes 1 microsecond when it was not.

        Raises:
            OSError: it was deleted and cannot be made.
        """
        self._regain()
        deleted = self._is_deleted() if self._fd is not None else not self._home.is_dir()
        if deleted:
            self._renew()

    def _regain(self) -> None:
        """Open the directory again when someone closed its descriptor (closerange), whose number is reused."""
        if self._closed:
            raise OSError(errno.EBADF, "the folder is closed", str(self._home))
        if self._fd is None or self._is_ours():
            return
        with self._lock:
            if not self._is_ours():
                self._fd = None
                if self._home.is_dir():
                    self._hold(self._opened())

    def _keep_spare(self) -> None:
        """Hold a descriptor that no file needs, for the moment when a leak has taken all others."""
        if self._spare is None and self._fd is not None and not self._closed:
            with contextlib.suppress(OSError):
                self._spare = os.dup(self._fd)  # not inherited by programs that are started

    def _give_spare(self) -> bool:
        """Close it, unless someone did (closerange): its number may be another file's."""
        spare, self._spare = self._spare, None
        try:
            if spare is None or _identity(os.fstat(spare)) != self._identity:
                return False
            os.close(spare)
        except OSError:
            return False
        return True

    def _is_ours(self) -> bool:
        """Whether the descriptor is still open, and of our directory."""
        try:
            return self._fd is not None and _identity(os.fstat(self._fd)) == self._identity
        except OSError:
            return False

    def _is_deleted(self) -> bool:
        return self._counts_links and self._fd is not None and os.fstat(self._fd).st_nlink == 0

    def _make_parent(self, name: str) -> None:
        """Make the folder that a name lies in. Where it is the directory itself, that was deleted unseen."""
        parent = os.path.dirname(name)  # noqa: PTH120  # relative to the descriptor
        if not parent:
            self._renew()
            return
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._at(parent), dir_fd=self._fd)

    def _renew(self) -> None:
        """Make the directory again at its first path, or use the one that someone else made there."""
        with self._lock:
            if self._fd is not None and self._is_ours() and self._counts_links and not self._is_deleted():
                return  # another thread was faster
            before = self._identity
            try:
                self._home.mkdir(parents=True, exist_ok=True)
            except FileExistsError:  # not to be taken for a file that the caller wanted to create
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._home)) from None
            self._hold(self._opened())
        if self._on_renewed is not None and self._identity != before:
            self._on_renewed(f"{self._home} was deleted, and has been made again")

    def _opened(self) -> int | None:
        """A new descriptor of the directory at the first path; None where there are none."""
        if not _BY_HANDLE:
            self._home.stat()
            return None
        try:
            return os.open(self._home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:  # it may be entered and not read
            return None

    def _hold(self, fd: int | None) -> None:
        """Use this descriptor. Other threads may be about to use the number of the one before: it stays valid."""
        if fd is None:
            with contextlib.suppress(OSError):
                self._identity = _identity(self._home.stat())
            return
        found = os.fstat(fd)
        if self._fd is not None:
            os.dup2(fd, self._fd, inheritable=False)
            os.close(fd)
        else:
            self._fd = fd
        self._identity = _identity(found)
        self._counts_links = found.st_nlink > 0  # some file systems in user space report 0 for every directory

    def _at(self, name: str) -> str:
        return name if self._fd is not None else os.path.join(self._home, name)  # noqa: PTH118  # as above


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _path_of(fd: int | None) -> list[Path]:
    """The present path of an open directory, where the system can tell."""
    if fd is None:
        return []
    with contextlib.suppress(OSError):
        return [Path(f"/proc/self/fd/{fd}").readlink()]
    if sys.platform == "darwin":
        with contextlib.suppress(OSError):
            return [Path(os.fsdecode(fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))]
    return []

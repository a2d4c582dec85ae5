"""Folders of compiled code: private to their user, one file each, which is whole, of its very key, or not used.

A file is code that the process loads. Its name holds the digest of its content, and it comes into the folder by a
rename: a part of one, or a changed one, is found out, and two processes that build the same code at once end up with
one or two whole files. The steps of ``ppo.compile`` and the hosts of the default task are kept so.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["CodeCache", "UnusableFolderError", "cache_folder", "processor"]

KEPT: Final = 64
"""Files that stay, those used last."""
ABANDONED_S: Final = 86_400.0
"""Age in seconds of a build's folder that nobody works in any more: its process was killed."""
_BUILD: Final = "building-"
_CPU_LINES: Final = ("flags", "Features", "model name", "CPU part")
"""How ``/proc/cpuinfo`` begins what tells a processor's instructions, on x86 and on ARM."""


class UnusableFolderError(Exception):
    """The folder cannot be used; the text says why."""


def cache_folder(environment: Mapping[str, str], name: str) -> Path:
    """Where code of one kind is kept: ``$XDG_CACHE_HOME/esper/NAME``, by default under ``~/.cache``.

    Raises:
        RuntimeError: there is no home directory.
    """
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "esper" / name


@functools.cache
def processor() -> str:
    """What says which instructions the processor has: code for one may be illegal on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    told = sorted({line for line in lines if line.startswith(_CPU_LINES)})
    return "\n".join([platform.system(), platform.machine(), *(told or [platform.processor()])])


class CodeCache:
    """A folder of compiled code.

    Args:
        folder: made with mode 0700 where it is absent.
        suffix: of its files.

    Raises:
        UnusableFolderError: it cannot be made or written, or is not this user's alone.
    """

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder = folder
        self._suffix = suffix
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            _refuse_others(folder)
            if not folder.is_dir():
                raise UnusableFolderError(f"{folder} is no folder")
            folder.chmod(0o700)  # one that the user made may be readable
        except OSError as error:
            raise UnusableFolderError(f"{folder}: {error.strerror or error}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UnusableFolderError(f"{folder} cannot be written")

    def find(self, key: str) -> Path | None:
        """The code of a key; what is damaged is removed."""
        for file in sorted(self.folder.glob(f"{key}-*{self._suffix}")):
            try:
                _refuse_others(file)
                if self._named(key, file) == file.name:
                    os.utime(file)
                    return file
                file.unlink()
            except (OSError, UnusableFolderError):
                continue
        return None

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """A folder to build in, beside the files; removed at the end."""
        self._clear_abandoned()
        folder = Path(tempfile.mkdtemp(prefix=_BUILD, dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, key: str, built: Path) -> Path:
        """Take a file in.

        Args:
            key: of its code.
            built: a file in a folder of :meth:`building`; moved.

        Raises:
            OSError: it cannot be moved.
        """
        built.chmod(0o600)
        file = self.folder / self._named(key, built)
        built.replace(file)
        for old in sorted(self.folder.glob(f"*{self._suffix}"), key=_used_at)[:-KEPT]:
            with contextlib.suppress(OSError):
                old.unlink()
        return file

    def _named(self, key: str, file: Path) -> str:
        """The name of a file with this content."""
        with file.open("rb") as content:
            return f"{key}-{hashlib.file_digest(content, 'sha256').hexdigest()}{self._suffix}"

    def _clear_abandoned(self) -> None:
        for folder in self.folder.glob(f"{_BUILD}*"):
            if time.time() - _used_at(folder) > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


def _refuse_others(path: Path) -> None:
    """Raise for what another user made, or may write."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise UnusableFolderError(f"{path} is a symbolic link")
    if found.st_uid != os.geteuid():
        raise UnusableFolderError(f"{path} belongs to another user")
    if found.st_mode & 0o022:
        raise UnusableFolderError(f"{path} may be written by others")


def _used_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return time.time()

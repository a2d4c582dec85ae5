"""The folder of compiled steps: private to its user, one file each, which is whole, of this very key, or not used.

A file is code that the process loads. Its name holds the digest of its content, and it comes into the folder by a
rename: a part of one, or a changed one, is found out, and two runs that build the same step at once end up with one or
two whole files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Cache", "UnusableFolderError", "cache_folder"]

KEPT: Final = 64
"""Steps that stay, those used last."""
ABANDONED_S: Final = 86_400.0
"""Age in seconds of a build's folder that nobody works in any more: its process was killed."""
_SUFFIX: Final = ".pt2"
_BUILD: Final = "building-"


class UnusableFolderError(Exception):
    """The folder cannot be used; the text says why."""


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where compiled steps are kept: ``$XDG_CACHE_HOME/esper/compiled``, by default under ``~/.cache``."""
    base = environment.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "esper" / "compiled"


class Cache:
    """A folder of compiled steps.

    Args:
        folder: made with mode 0700 where it is absent.

    Raises:
        UnusableFolderError: it cannot be made or written, or is not this user's alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        """The step of a key; what is damaged is removed."""
        for file in sorted(self.folder.glob(f"{key}-*{_SUFFIX}")):
            try:
                _refuse_others(file)
                if _named(key, file) == file.name:
                    os.utime(file)
                    return file
                file.unlink()
            except (OSError, UnusableFolderError):
                continue
        return None

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """A folder to build in, beside the steps; removed at the end."""
        self._clear_abandoned()
        folder = Path(tempfile.mkdtemp(prefix=_BUILD, dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, key: str, built: Path) -> Path:
        """Take a step in.

        Args:
            key: of the step.
            built: a file in a folder of :meth:`building`; moved.

        Raises:
            OSError: it cannot be moved.
        """
        built.chmod(0o600)
        file = self.folder / _named(key, built)
        built.replace(file)
        for old in sorted(self.folder.glob(f"*{_SUFFIX}"), key=_used_at)[:-KEPT]:
            with contextlib.suppress(OSError):
                old.unlink()
        return file

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


def _named(key: str, file: Path) -> str:
    """The name of a file with this content."""
    with file.open("rb") as content:
        return f"{key}-{hashlib.file_digest(content, 'sha256').hexdigest()}{_SUFFIX}"


def _used_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return time.time()

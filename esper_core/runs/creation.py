"""The creation of a run's directory, and what its name tells."""

from __future__ import annotations

import re
import time
from calendar import timegm
from typing import TYPE_CHECKING, Final

from esper_core import ids
from esper_core.errors import UsageError
from esper_core.runs.layout import RunDir

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["create_run", "is_named", "named_as_run", "started_ns"]

_RUN_NAME: Final = re.compile(r"\d{8}T\d{6}Z-(.+)-[0-9a-z]{6}")
_NAME_LIMIT: Final = 64
_CREATE_TRIES: Final = 8


def create_run(base: Path, *, name: str = "") -> RunDir:
    """Create a new run directory, safely when other processes do the same at the same time.

    Args:
        base: folder that holds the runs; created when missing.
        name: a readable name; characters that file names must not contain become ``-``.

    Returns:
        The run, at an absolute path; its id is ``<UTC time>-<name or ppo>-<six random characters>``.

    Raises:
        UsageError: the folder cannot be written.
    """
    readable = _readable(name) or "ppo"
    for _ in range(_CREATE_TRIES):
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        try:
            path = base.absolute() / f"{stamp}-{readable}-{ids.new_run_id()}"
            base.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            (path / "telemetry").mkdir()
        except FileExistsError:
            if base.is_dir():
                continue
            raise UsageError(
                f"cannot make a run in {base}: it is not a folder", hint="choose another run.dir"
            ) from None
        except OSError as error:
            raise UsageError(
                f"cannot make a run in {base}: {error.strerror or error}",
                hint="choose another folder with run.dir in the config file or --set run.dir=FOLDER",
            ) from error
        return RunDir(path)
    raise UsageError(f"cannot make a run in {base}: every id drawn was taken", hint="choose another run.dir")


def _readable(name: str) -> str:
    """A name as the folders of runs hold it."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:_NAME_LIMIT]


def named_as_run(name: str) -> bool:
    """Whether a directory's name is one that :func:`create_run` gives."""
    return _RUN_NAME.fullmatch(name) is not None


def started_ns(path: Path, recorded: int) -> int | None:
    """When a run began, unix nanoseconds: from its folder's name, whichever attempt is running, else as recorded.

    Args:
        path: the run's folder.
        recorded: start of the latest attempt by ``run.json``; 0 when unknown.
    """
    try:
        return timegm(time.strptime(path.name[:17], "%Y%m%dT%H%M%SZ-")) * 1_000_000_000
    except ValueError:  # another name
        return recorded or None


def is_named(folder: str, spec: str) -> bool:
    """Whether a run's folder holds exactly this name, and not one that contains it."""
    found = _RUN_NAME.fullmatch(folder)
    return found is not None and found.group(1) == _readable(spec)

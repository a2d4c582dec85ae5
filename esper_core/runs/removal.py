"""Removes a run from the disk: only what is a run, never one that may still train, and nothing beyond its folder."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper_core.errors import EsperError, JournalError, UsageError
from esper_core.health import RunState
from esper_core.runs.creation import named_as_run
from esper_core.runs.layout import RunDir, journal_files
from esper_core.runs.search import is_run
from esper_core.runs.state import read_state

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["last_sign_ns", "refusal", "remove_run", "run_bytes"]

_QUIET_S: Final = 60.0
"""Seconds without a write after which a run whose ``run.json`` says nothing is taken for one that has ended."""
_MAY_TRAIN: Final = frozenset({RunState.LIVE, RunState.STALLED, RunState.STALE})


def refusal(run: RunDir) -> str:
    """Why a run must not be removed, as text; empty when it may be."""
    path = run.path
    if path.is_symlink():
        return "it is a link; remove the link itself with rm, or name the run it leads to"
    if not path.is_dir():
        return "it is no folder"
    if not _is_surely_run(run):
        return "it holds neither a record nor a journal of a run"
    inner = next((item for item in path.iterdir() if item.is_dir() and item.name != "telemetry" and is_run(item)), None)
    if inner is not None:
        return f"it holds another run, {inner.name}"
    if Path(os.path.realpath(path)) in (here := Path.cwd(), *here.parents):
        return "the current folder lies in it"
    record, state = read_state(run)
    if record is not None and state in _MAY_TRAIN:
        where = f"pid {record.pid} on {record.host}" if record.pid else f"on {record.host or 'an unknown host'}"
        return f"it is {state.value} ({where}): its trainer may still write it"
    quiet_s = time.time() - max(_changed(path), default=0.0)
    if record is None and quiet_s < _QUIET_S:
        return f"its run.json says nothing and it was written {max(quiet_s, 0.0):.0f} s ago: it may be live"
    return ""


def remove_run(run: RunDir) -> None:
    """Delete the run's folder. Links in it are deleted, what they lead to is not.

    The folder is renamed first, so that nobody begins to use the run while it goes.

    Raises:
        UsageError: it must not be removed, see :func:`refusal`.
        EsperError: something of it cannot be deleted.
    """
    reason = refusal(run)
    if reason:
        raise UsageError(f"cannot remove {run.path}: {reason}")
    aside = RunDir(run.path.with_name(f".{run.path.name}.removed-{os.getpid()}"), run.run_id)
    try:
        run.path.rename(aside.path)
    except OSError as error:
        raise EsperError(
            f"cannot remove {run.path}: {error.strerror or error}", hint="check the rights of the folder it lies in"
        ) from error
    reason = refusal(aside)
    if reason:  # someone began to use it in the meantime
        aside.path.rename(run.path)
        raise UsageError(f"cannot remove {run.path}: {reason}")
    try:
        shutil.rmtree(aside.path)
    except OSError as error:
        raise EsperError(
            f"cannot remove all of {run.path}: {error.strerror or error}", hint=f"what is left lies in {aside.path}"
        ) from error


def run_bytes(run: RunDir) -> int:
    """The sizes of the run's files together; links and what cannot be read count nothing."""
    total = 0
    for folder, _, names in os.walk(run.path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  # as os.walk gives them
            except OSError:
                continue
    return total


def last_sign_ns(run: RunDir) -> int:
    """When the run last gave a sign of life: its heartbeat, else its newest file; unix nanoseconds."""
    record, _ = read_state(run)
    if record is not None and record.heartbeat_ns:
        return record.heartbeat_ns
    return int(max(_changed(run.path), default=0.0) * 1e9)


def _is_surely_run(run: RunDir) -> bool:
    """Stricter than what lists go by: a folder with a file of the right name is not deleted for that."""
    record, _ = read_state(run)
    if record is not None or named_as_run(run.path.name) or named_as_run(run.path.name[1:].partition(".removed-")[0]):
        return True
    try:
        return bool(journal_files(run))
    except JournalError:
        return False


def _changed(path: Path) -> Iterator[float]:
    """When each file of the run and of its journal was last written, unix seconds."""
    for folder in (path, path / "telemetry"):
        try:
            for item in folder.iterdir():
                yield item.lstat().st_mtime
        except OSError:
            continue

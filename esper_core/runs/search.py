"""The search for a run by path, id or part of an id, and the list of the runs in a folder."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Final

import msgspec

from esper_core.errors import RunNotFoundError, UsageError, nearest
from esper_core.runs.creation import is_named, named_as_run
from esper_core.runs.files import read_bytes
from esper_core.runs.layout import RunDir

__all__ = ["find_run", "is_run", "list_runs"]


class _Identity(msgspec.Struct):
    """The only field of ``run.json`` that the search for a run needs."""

    run_id: str = ""


_identity: Final = msgspec.json.Decoder(_Identity)


def _run_at(path: Path) -> RunDir:
    """The run in a directory; its id comes from ``run.json``, since directories get copied and renamed."""
    try:
        identity = _identity.decode(read_bytes(path / "run.json"))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        identity = _Identity()
    return RunDir(path, identity.run_id)


def list_runs(base: Path) -> list[RunDir]:
    """The runs in a folder, newest first; none when the folder is missing. Hidden directories are left out.

    Raises:
        UsageError: it is no folder, or cannot be read.
    """
    try:
        found = [path for path in base.iterdir() if not path.name.startswith(".") and is_run(path)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(
            f"cannot read the folder of runs {base}: {error.strerror or error}", hint="name another one with --dir"
        ) from error
    return [RunDir(path) for path in sorted(found, key=_age_key, reverse=True)]


def _age_key(path: Path) -> tuple[str, int, str]:
    """Order by the time in the id, then by the directory's own time for runs of one second or foreign names."""
    stamp = path.name[:16] if re.match(r"\d{8}T\d{6}Z", path.name) else ""
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0
    if not stamp:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(changed / 1e9))
    return stamp, changed, path.name


def find_run(spec: str, base: Path) -> RunDir:
    """Find a run by the text that the user typed.

    Args:
        spec: a path of a run or of a file in it, a run id, the exact name of one run (``--run-name``), a unique part of
            an id (its beginning first), or ``latest``.
        base: folder that holds the runs.

    Raises:
        RunNotFoundError: no run or more than one matches; the message names the searched folder and the nearest id.
    """
    as_path = Path(spec)
    for place in (as_path, *_folders_of(as_path)) if spec else ():
        if is_run(place):
            return _run_at(place)
    runs = list_runs(base)
    names = [run.path.name for run in runs]
    if spec == "latest" and runs:
        return _run_at(runs[0].path)
    if spec in names:
        return _run_at(base / spec)
    for fits in (is_named, str.startswith, str.__contains__):
        matches = [name for name in names if spec and fits(name, spec)]
        if len(matches) == 1:
            return _run_at(base / matches[0])
        if matches:
            shown = "".join(f"\n    {name}" for name in matches[:5])
            more = f"\n    and {len(matches) - 5} more" if len(matches) > 5 else ""
            raise RunNotFoundError(f'"{spec}" fits {len(matches)} runs in {base}:{shown}{more}', hint="type more of it")
    if spec and as_path.exists():
        inside = [run.path for run in list_runs(as_path)]
        hint = f"it is a folder of runs; name one of them, such as {inside[0]}" if inside else "list runs: esper runs"
        raise RunNotFoundError(f"{spec} holds no run", hint=hint)
    if not runs:
        raise RunNotFoundError(
            f'no run "{spec}": there are no runs in {Path(os.path.realpath(base))}',
            hint="start one with: esper ppo --episodes 20; or name a folder with --dir, in Python with base=",
        )
    raise RunNotFoundError(
        f'no run "{spec}" in {Path(os.path.realpath(base))}{nearest(spec, names)}',
        hint="list them with: esper runs; another folder is named with --dir, in Python with base=",
    )


def _folders_of(path: Path) -> list[Path]:
    """The folders of a run that a file may lie in: the run's own, or its ``telemetry``'s."""
    return [path.parent, path.parent.parent] if path.is_file() else []


def is_run(path: Path) -> bool:
    """Whether a directory holds a run: something named ``run.json`` or ``telemetry``, be it damaged.

    A directory that may not be entered is one when it is named as runs are.
    """
    try:
        if not path.is_dir():
            return False
        return any(_there(path / name) for name in ("run.json", "telemetry"))
    except OSError:
        return named_as_run(path.name)


def _there(path: Path) -> bool:
    """Whether there is anything of that name, be it a link to nothing."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True

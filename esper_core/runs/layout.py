"""The paths of a run's files, the creation of a run, and the search for one by path, id or part of an id."""

from __future__ import annotations

import os
import re
import time
from calendar import timegm
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from esper_core import ids
from esper_core.errors import JournalError, RunNotFoundError, UsageError, nearest
from esper_core.runs.files import read_bytes

__all__ = [
    "A_RUN",
    "BEST",
    "JOURNAL_FOLDER",
    "REST_SUFFIX",
    "JournalFile",
    "RunDir",
    "create_run",
    "find_run",
    "is_run",
    "journal_files",
    "list_runs",
    "named_as_run",
    "path_text",
    "started_ns",
    "working_directory",
]

A_RUN: Final = 'a run, its path, its id, a part of its id, or "latest"'
"""What names a run in Python, as errors say it."""

BEST: Final = "best.pt"
"""The checkpoint of the policy that was evaluated best, in a run's directory."""
JOURNAL_FOLDER: Final = "telemetry"
JOURNAL_SUFFIX: Final = ".otlp.jsonl"
REST_SUFFIX: Final = ".gz"
"""Added to a journal file's name once nothing more is written into it and it has been compressed."""
_JOURNAL_NAME: Final = re.compile(r"(\d+)-(\d+)-(\d+)\.otlp\.jsonl(?:\.gz)?")
_RUN_NAME: Final = re.compile(r"\d{8}T\d{6}Z-(.+)-[0-9a-z]{6}")
_NAME_LIMIT: Final = 64
_CREATE_TRIES: Final = 8


class _Identity(msgspec.Struct):
    """The only field of ``run.json`` that the search for a run needs."""

    run_id: str = ""


_identity: Final = msgspec.json.Decoder(_Identity)


@dataclass(frozen=True)
class RunDir:
    """A run's directory. Creating this object neither reads nor writes a file.

    Attributes:
        path: the directory.
        run_id: the run's id, as its events carry it; the directory's name unless the run was copied elsewhere.
    """

    path: Path
    run_id: str = ""

    def __post_init__(self) -> None:
        if not self.run_id:
            object.__setattr__(
                self, "run_id", Path(os.path.realpath(self.path)).name
            )  # resolve() refuses a loop of links

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def record_path(self) -> Path:
        """``run.json``: state, heartbeat and sinks, replaced atomically."""
        return self.path / "run.json"

    @property
    def telemetry(self) -> Path:
        """Folder of the journal's files."""
        return self.path / JOURNAL_FOLDER

    @property
    def config_path(self) -> Path:
        """``config.toml``: the resolved configuration, secrets masked."""
        return self.path / "config.toml"

    @property
    def checkpoint(self) -> Path:
        """``checkpoint.pt``: weights, optimizer, generators, ids."""
        return self.path / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """``best.pt``: the checkpoint of the policy that was evaluated best (``run.eval_every``)."""
        return self.path / BEST

    @property
    def log_path(self) -> Path:
        """``trainer.log``."""
        return self.path / "trainer.log"

    @property
    def summary_path(self) -> Path:
        """``summary.json``, written at the end."""
        return self.path / "summary.json"


@dataclass(frozen=True, order=True)
class JournalFile:
    """One journal file; sorts by attempt, rank and segment.

    Attributes:
        attempt: counts from 1.
        rank: the rank of the process that wrote it.
        segment: counts from 1 within attempt and rank.
        path: the file.
    """

    attempt: int
    rank: int
    segment: int
    path: Path

    @property
    def key(self) -> str:
        """Its name, the same before and after it is compressed."""
        return self.path.name.removesuffix(REST_SUFFIX)

    @classmethod
    def named(cls, folder: Path, attempt: int, rank: int, segment: int) -> JournalFile:
        """The file of that attempt, rank and segment, whether it exists or not."""
        name = f"{attempt}-{rank}-{segment:04d}{JOURNAL_SUFFIX}"
        return cls(attempt=attempt, rank=rank, segment=segment, path=folder / name)

    @classmethod
    def parse(cls, path: Path) -> JournalFile | None:
        """Read attempt, rank and segment from a file's name; None for any other file."""
        match = _JOURNAL_NAME.fullmatch(path.name)
        if match is None:
            return None
        attempt, rank, segment = (int(group) for group in match.groups())
        return cls(attempt=attempt, rank=rank, segment=segment, path=path)


def journal_files(run: RunDir, *, rank: int | None = None) -> list[JournalFile]:
    """The run's journal files in order; none when the folder is missing or was deleted.

    Those of rank 0 tell the run: its updates are of all ranks. The other ranks of a run of several tell their own
    start, end and episodes. ``rank`` selects one; None is all.

    A file that is there both plain and compressed (its trainer was killed between the two) counts once.

    Raises:
        JournalError: the folder cannot be read, or is no folder.
    """
    try:
        found = [JournalFile.parse(path) for path in run.telemetry.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(f"cannot read {run.telemetry}: {error.strerror or error}") from error
    files = sorted((item for item in found if item is not None and rank in {None, item.rank}), reverse=True)
    return sorted({item.key: item for item in files}.values())  # the plain one sorts first, and so stays


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


def working_directory() -> Path:
    """The working directory, to which relative paths are joined before code of others may change it.

    Raises:
        UsageError: it was deleted.
    """
    try:
        return Path.cwd()
    except OSError:
        raise UsageError("the working directory was deleted", hint="change to a folder that exists") from None


def path_text(argument: str, value: object, expected: str = A_RUN) -> str:
    """The text of an argument that is a string or a path.

    Args:
        argument: its name in the caller's signature, for the error.
        value: as given.
        expected: what it should be, in words.

    Raises:
        UsageError: it is something else.
    """
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(given, str):
        raise UsageError(f"{argument}: expected {expected} (is {value!r})")
    return given


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


def named_as_run(name: str) -> bool:
    """Whether a directory's name is one that :func:`create_run` gives."""
    return _RUN_NAME.fullmatch(name) is not None


def _there(path: Path) -> bool:
    """Whether there is anything of that name, be it a link to nothing."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


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
    for fits in (_is_named, str.startswith, str.__contains__):
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


def _is_named(folder: str, spec: str) -> bool:
    """Whether a run's folder holds exactly this name, and not one that contains it."""
    found = _RUN_NAME.fullmatch(folder)
    return found is not None and found.group(1) == _readable(spec)


def _folders_of(path: Path) -> list[Path]:
    """The folders of a run that a file may lie in: the run's own, or its ``telemetry``'s."""
    return [path.parent, path.parent.parent] if path.is_file() else []

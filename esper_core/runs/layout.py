"""The paths of a run's files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from esper_core.errors import JournalError

__all__ = ["BEST", "JOURNAL_FOLDER", "REST_SUFFIX", "JournalFile", "RunDir", "journal_files"]

BEST: Final = "best.pt"
"""The checkpoint of the policy that was evaluated best, in a run's directory."""
JOURNAL_FOLDER: Final = "telemetry"
JOURNAL_SUFFIX: Final = ".otlp.jsonl"
REST_SUFFIX: Final = ".gz"
"""Added to a journal file's name once nothing more is written into it and it has been compressed."""
_JOURNAL_NAME: Final = re.compile(r"(\d+)-(\d+)-(\d+)\.otlp\.jsonl(?:\.gz)?")


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

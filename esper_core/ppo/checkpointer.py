"""Checkpointer: when a checkpoint is due, and where the best policy is kept."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from esper_core.errors import EsperError
from esper_core.ppo.checkpoint_file import load_checkpoint, write_checkpoint
from esper_core.runs.layout import BEST

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esper_core.runs.folder import Folder

__all__ = ["Checkpointer"]

_log = logging.getLogger("esper.ppo")


@dataclass(slots=True)
class Checkpointer:
    """Decides when a checkpoint is due.

    A checkpoint that cannot be written while training goes on (a full disk) is tried again after the next interval; it
    is said once, until one has been written again. One at the end raises, since nothing would be left of the run.

    Attributes:
        path: the file.
        interval_s: least seconds between two; the one at the end is always written.
        folder: the file's folder, held open; None reaches it by its path.
        on_failure: called with a line of text beside the log's.
    """

    path: Path
    interval_s: float = 10.0
    folder: Folder | None = None
    on_failure: Callable[[str], object] | None = None
    _written_at: float | None = field(default=None, repr=False)
    _pending: bool = field(default=False, repr=False)
    _failing: bool = field(default=False, repr=False)

    def completed(self) -> bool:
        """An update was completed. Returns whether it is time to write."""
        self._pending = True
        return self._written_at is None or time.monotonic() - self._written_at >= self.interval_s

    def write(self, save: Callable[[Path], None], *, final: bool = False, more: bool = False) -> None:
        """Write an update that was completed since the last time, or where there is none, that which is ``more``.

        Args:
            save: writes the file that it is given.
            final: the run ends: that it cannot be written is raised.
            more: there is something to keep beside completed updates.
        """
        if not (self._pending or more):
            return
        self._written_at = time.monotonic()
        try:
            save(self.path)
        except EsperError as error:
            if final:
                raise
            self._failed(f"training goes on without a new checkpoint: {error.message}")
        else:
            self._pending = self._failing = False

    @property
    def best_path(self) -> Path:
        """Where the best policy is kept."""
        return self.path.with_name(BEST)

    def keep_best(self, content: dict[str, Any]) -> None:
        """Keep the best policy so far; when that fails, training goes on and the failure is told."""
        try:
            write_checkpoint(self.best_path, content, folder=self.folder)
        except EsperError as error:
            self._failed(f"training goes on and the best policy was not kept: {error.message}")

    def best_so_far(self) -> tuple[float, int] | None:
        """Mean return and update id of the best policy that was kept; None when there is none that can be read."""
        try:
            kept = load_checkpoint(self.best_path)
        except EsperError:
            return None
        return None if kept.evaluated is None else (kept.evaluated, kept.update_id)

    def _failed(self, line: str) -> None:
        first, self._failing = not self._failing, True
        if first:
            _log.warning("%s", line)
            if self.on_failure is not None:
                self.on_failure(line)

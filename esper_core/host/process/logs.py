"""``trainer.log``: log messages of Esper, its sinks and the OpenTelemetry SDK, never printed on the terminal."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from esper_core import forks
from esper_core.masking import redact
from esper_core.runs.ranks import log_name
from esper_core.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import TextIOWrapper

    from esper_core.runs.folder import Folder

__all__ = ["log_to"]

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
_TIME = "%Y-%m-%dT%H:%M:%S"


class _QuietFileHandler(logging.FileHandler):
    """Writes ``trainer.log``, and prints nothing on the terminal when that fails, for example on a full disk."""

    def __init__(self, folder: Folder, name: str) -> None:
        super().__init__(folder.path / name, encoding="utf-8", delay=True)
        self._folder = folder
        self._file_name = name

    def _open(self) -> TextIOWrapper:
        """Open the file in the folder, wherever that is by now: the first message may come late."""
        return open(self._file_name, "a", encoding="utf-8", opener=self._folder.opener)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's own name
        """Drop the line without a message."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or drop it: opening the file may fail as well. A file that was deleted is begun anew."""
        with contextlib.suppress(OSError):
            if self.stream is not None and self._folder.stat(self._file_name) is None:
                self.stream.close()
                self.stream = None
            super().emit(record)


class _RedactingFormatter(logging.Formatter):
    """Formats messages and tracebacks with their secrets replaced and their control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one line and its traceback, fit for the terminal of whoever looks at the file."""
        return printable(redact(super().format(record)))


@contextlib.contextmanager
def log_to(folder: Folder | None, *, rank: int = 0) -> Iterator[None]:
    """Write the loggers ``esper`` and ``opentelemetry`` to ``trainer.log`` in a folder; without a folder, drop them.

    Ranks above 0 write ``trainer-RANK.log``: appending from several machines to one file loses lines.

    Without a handler Python prints warnings on stderr, which would break a progress bar: the SDK logs one for each
    failed export. The application's own handlers for ``opentelemetry`` stay in effect.
    """
    handler: logging.Handler
    if folder is None:
        handler = logging.NullHandler()
    else:
        handler = _QuietFileHandler(folder, log_name(rank))
        handler.setFormatter(_RedactingFormatter(_FORMAT, _TIME))
    ours, theirs = logging.getLogger("esper"), logging.getLogger("opentelemetry")
    before = (ours.propagate, ours.level)
    ours.propagate = False
    if ours.level == logging.NOTSET:
        ours.setLevel(logging.INFO)
    for logger in (ours, theirs):
        logger.addHandler(handler)

    def leave_the_file() -> None:
        """In a forked child: drop the messages. The file is the run's, and the child is none."""
        for logger in (ours, theirs):
            logger.removeHandler(handler)
            logger.addHandler(logging.NullHandler())

    take_back = forks.in_child(leave_the_file)
    try:
        yield
    finally:
        take_back()
        for logger in (ours, theirs):
            logger.removeHandler(handler)
        ours.propagate, level = before
        ours.setLevel(level)
        with contextlib.suppress(OSError):
            handler.close()

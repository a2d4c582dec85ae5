"""The output of the sink: a plain stream, or a terminal with a progress bar below the lines."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import sys
import textwrap
import time
from typing import IO, TYPE_CHECKING, Final, Protocol

from esper_core.reading.glyphs import Role, encodable
from esper_core.reading.numbers import age
from esper_core.terminal import one_line
from esper_sink_console._lines import Line, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.text import Text

__all__ = ["BarScreen", "PlainScreen", "Screen", "WhileRead", "animates", "wants_ascii"]

_REFRESH_HZ: Final = 2.0
_READER_GONE: Final = frozenset({errno.EPIPE, errno.EIO, errno.ENXIO})
_STYLES: Final[dict[Role, str]] = {"dim": "dim", "warn": "#E69F00", "crit": "bold #D55E00", "bad": "bold #D55E00"}
"""Colours of Okabe and Ito, distinguishable with colour blindness; a level always has its word and glyph too."""


class Screen(Protocol):
    """The interface of both outputs."""

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None when the length of a line is not limited."""

    def show(self, line: Line, *, indent: int = 0) -> None:
        """Print one line."""

    def progress(self, fraction: float, text: str) -> None:
        """Move the bar."""

    def close(self) -> None:
        """Restore the terminal. A second call does nothing."""


def animates(stream: IO[str]) -> bool:
    """Whether a bar can be drawn: the stream is a terminal whose cursor can be moved."""
    return stream.isatty() and os.environ.get("TERM", "") not in {"", "dumb", "unknown"}


def wants_ascii(stream: IO[str]) -> bool:
    """Whether the stream cannot encode the glyphs."""
    return not encodable(getattr(stream, "encoding", None))


class PlainScreen:
    """Prints plain lines without escape codes."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    @property
    def width(self) -> int | None:
        """None: a file has no width."""
        return None

    def show(self, line: Line, *, indent: int = 0) -> None:
        """Print the line and flush: a log file may be read while it is written."""
        self._stream.write(f"{' ' * indent}{plain(line)}\n")
        self._stream.flush()

    def progress(self, fraction: float, text: str) -> None:
        """Do nothing: there is no bar."""

    def close(self) -> None:
        """Do nothing: there is nothing to restore."""


class WhileRead:
    """Another screen, for as long as somebody reads it.

    When the reader of a pipe has gone (``2>&1 | head``) or the terminal was closed, nothing more is printed. That is no
    loss of telemetry: the lines were for that reader. A full disk is another matter and stays an error of the sink.

    Args:
        screen: what prints.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._read = True

    @property
    def width(self) -> int | None:
        """Columns of the screen."""
        return self._screen.width

    def show(self, line: Line, *, indent: int = 0) -> None:
        """Print one line, unless nobody reads."""
        self._try(lambda: self._screen.show(line, indent=indent))

    def progress(self, fraction: float, text: str) -> None:
        """Move the bar, unless nobody reads."""
        self._try(lambda: self._screen.progress(fraction, text))

    def close(self) -> None:
        """Restore the streams, whether somebody reads or not."""
        read, self._read = self._read, True
        self._try(self._screen.close)
        self._read = self._read and read

    def _try(self, act: Callable[[], None]) -> None:
        if not self._read:
            return
        try:
            act()
        except OSError as error:
            if error.errno not in _READER_GONE:
                raise
            self._read = False


class BarScreen:
    """Prints lines above a live bar (Rich); other output does not break the bar.

    While it is live, ``sys.stderr``, and ``sys.stdout`` when it is a terminal too, go through Rich, and handlers of the
    root logger that wrote to them are redirected too; ``close`` restores everything. A piped ``stdout`` is not changed.
    The cursor is never hidden, so that a killed process leaves a usable terminal.
    """

    def __init__(self, stream: IO[str], *, bar: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.console import Console  # noqa: PLC0415  # imported for a terminal only: Rich takes 60 ms

        class _Console(Console):
            def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002  # Rich's signature
                return False

        self._console: Console = _Console(file=stream, force_terminal=True, highlight=False, soft_wrap=True)
        self._clock = clock
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._eta = _Eta(clock)
        self._handlers: list[tuple[logging.StreamHandler[IO[str]], IO[str]]] = []
        if bar:
            self._begin()

    @property
    def width(self) -> int | None:
        """Columns of the terminal now."""
        return self._console.width

    def _begin(self) -> None:
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn  # noqa: PLC0415  # as above
        from rich.text import Text  # noqa: PLC0415  # as above

        eta = self._eta

        class _EtaColumn(ProgressColumn):
            max_refresh = None

            def render(self, _: object) -> Text:
                return Text(eta.text(), style="dim")

        before = (sys.stdout, sys.stderr)
        self._progress = Progress(
            BarColumn(bar_width=24, complete_style="#56B4E9", finished_style="#56B4E9"),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.description}", style="dim"),
            _EtaColumn(),
            console=self._console,
            refresh_per_second=_REFRESH_HZ,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )
        self._task = self._progress.add_task("starting", total=1.0)
        self._progress.start()
        self._follow_loggers(before)
        atexit.register(self.close)

    def _follow_loggers(self, before: tuple[IO[str], IO[str]]) -> None:
        """Redirect the logging handlers that hold the old streams: they would write over the bar."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in before:
                old = handler.stream
                new = sys.stdout if old is before[0] else sys.stderr
                if new is not old:
                    handler.setStream(new)
                    self._handlers.append((handler, old))

    def show(self, line: Line, *, indent: int = 0) -> None:
        """Print the line above the bar; a long line is wrapped and indented to its own beginning."""
        width = max(40, self._console.width - 1)
        text = plain(line)
        if indent + len(text) > width:
            wrapped = textwrap.wrap(
                text, width, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), break_long_words=False
            )
            style = _STYLES.get(line[-1][1]) if len(line) == 1 else None
            for row in wrapped:
                self._console.print(self._text(((row, ""),), 0), style=style)
            return
        self._console.print(self._text(line, indent))

    @staticmethod
    def _text(line: Line, indent: int) -> Text:
        from rich.text import Text  # noqa: PLC0415  # as above

        return Text.assemble(" " * indent, *((one_line(piece), _STYLES.get(role, "")) for piece, role in line))

    def progress(self, fraction: float, text: str) -> None:
        """Move the bar."""
        if self._progress is not None and self._task is not None:
            self._eta.reached(fraction)
            self._progress.update(self._task, completed=fraction, description=one_line(text))

    def close(self) -> None:
        """Remove the bar and restore the streams."""
        progress, self._progress = self._progress, None
        if progress is None:
            return
        progress.stop()
        for handler, stream in self._handlers:
            handler.setStream(stream)
        self._handlers.clear()
        atexit.unregister(self.close)


class _Eta:
    """Estimates the time left from the mean speed since the first fraction; it counts down between two updates."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start: tuple[float, float] | None = None
        self._end: float | None = None

    def reached(self, fraction: float) -> None:
        """Record that a fraction of the run is done."""
        now = self._clock()
        if self._start is None:
            self._start = (now, fraction)
            return
        began, first = self._start
        if fraction > first:
            self._end = now + (now - began) * (1.0 - fraction) / (fraction - first)

    def text(self) -> str:
        """For example ``ETA 1m05s``, blank while unknown."""
        return "" if self._end is None else f"ETA {age(float(round(self._end - self._clock())))}"

"""``esper export``: writes the effective updates of runs as a table for a notebook or a spreadsheet."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from esper_core.cli._damage import refuse_without_journal, say_lines
from esper_core.cli._output import note, say
from esper_core.cli._parser import add_config_arguments, runs_dir
from esper_core.errors import EXIT_FAILED, EXIT_OK, EsperError, JournalError
from esper_core.terminal import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from esper_core.events import PPOUpdatePayload, TelemetryEvent
    from esper_core.reading import Run
    from esper_core.runs import JournalReader

__all__ = ["ExportCommand", "command"]


class ExportCommand:
    """Writes updates as rows."""

    name = "export"
    help = "write the updates of runs as CSV or JSON lines"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("runs", nargs="+", metavar="RUN", help="path, id, unique part of one, or latest")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--csv", action="store_true", help="comma-separated with a heading; the default")
        form.add_argument(
            "--jsonl", action="store_true", help='one JSON object a line; the default for "-o FILE.jsonl"'
        )
        parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write here instead of to the screen")
        parser.add_argument("--dir", metavar="DIR", help="folder that holds the runs; default run.dir, which is runs")
        add_config_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Write the updates."""
        from esper_core.reading import journal_condition, open_run

        base = runs_dir(args)
        runs = [open_run(spec, base) for spec in args.runs]
        if all(journal_condition(run.directory, run.record).absent for run in runs):
            refuse_without_journal(runs[0])
        as_lines = args.jsonl or (args.output is not None and args.output.suffix == ".jsonl" and not args.csv)
        write = _write_jsonl if as_lines else _write_csv
        source = _Source(runs)
        try:
            with _opened(args.output) as out:
                count = write(source, out)
        except OSError as error:
            if args.output is None:
                raise  # stdout's: the command line says so for every command
            raise EsperError(
                f"cannot write {args.output}: {error.strerror or error}", hint="name another file with -o"
            ) from error
        if args.output is not None:
            say(f"{count} updates of {len(runs)} run{'s' if len(runs) > 1 else ''} written to {args.output}")
        for reader in source.readers:
            say_lines(reader)
        if len(source.errors) == 1:
            raise source.errors[0]
        for unread in source.errors:
            note(f"esper: {unread}")
        return EXIT_FAILED if source.errors else EXIT_OK


def _opened(path: Path | None) -> contextlib.AbstractContextManager[TextIO]:
    if path is None:
        return contextlib.nullcontext(_Shown() if sys.stdout.isatty() else sys.stdout)
    return path.open("w", encoding="utf-8", newline="")


class _Shown(io.StringIO):
    """Passes rows on to a terminal without the control characters of names in them; files get them as they are."""

    def write(self, text: str, /) -> int:
        """Print the text."""
        return sys.stdout.write(printable(text))


class _Source:
    """The updates of several runs; what cannot be read of one does not hide the others.

    Attributes:
        readers: of the runs read so far; they know the damaged lines.
        errors: what could not be read at all.
    """

    def __init__(self, runs: list[Run]) -> None:
        self._runs = runs
        self.readers: list[JournalReader] = []
        self.errors: list[JournalError] = []

    def first_updates(self) -> Iterator[PPOUpdatePayload]:
        """The first update of each attempt of each run."""
        for run in self._runs:
            with contextlib.suppress(JournalError):  # said when the run's updates are read
                yield from run.first_updates()

    def updates(self) -> Iterator[TelemetryEvent[PPOUpdatePayload]]:
        """The effective updates, run after run."""
        from esper_core.reading import stream_updates
        from esper_core.runs import JournalReader

        for run in self._runs:
            reader = JournalReader(run.directory)
            self.readers.append(reader)
            try:
                refuse_without_journal(run)
                yield from stream_updates(run.directory, reader)
                reader.check()
            except JournalError as error:
                self.errors.append(error)


def _write_csv(source: _Source, out: TextIO) -> int:
    from esper_core.reading.table import heading, write_csv

    return write_csv(source.updates(), heading(source.first_updates()), out)


def _write_jsonl(source: _Source, out: TextIO) -> int:
    from esper_core.reading.table import write_jsonl

    return write_jsonl(source.updates(), out)


command = ExportCommand()

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
from esper_core.errors import EXIT_FAILED, EXIT_OK, EsperError, JournalError, UsageError
from esper_core.terminal import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from esper_core.events import PPOUpdatePayload
    from esper_core.reading import Run, UpdateIndex
    from esper_core.reading.cells import Block
    from esper_core.runs import JournalReader

__all__ = ["ExportCommand", "command"]


class ExportCommand:
    """Writes updates as rows."""

    name = "export"
    help = "write the updates of runs as CSV, JSON lines, SQLite or Parquet"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("runs", nargs="+", metavar="RUN", help="path, id, unique part of one, or latest")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--csv", action="store_true", help="comma-separated with a heading; the default")
        form.add_argument(
            "--jsonl", action="store_true", help='one JSON object a line; the default for "-o FILE.jsonl"'
        )
        form.add_argument("--sqlite", type=Path, metavar="FILE", help="a new SQLite file with the table updates")
        form.add_argument(
            "--parquet", type=Path, metavar="FILE", help="a new Parquet file; needs the extra esper-core[parquet]"
        )
        parser.add_argument(
            "-o", "--output", type=Path, metavar="FILE", help="write here instead of to stdout, which is -"
        )
        parser.add_argument("--dir", metavar="DIR", help="folder that holds the runs; default run.dir, which is runs")
        add_config_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Write the updates."""
        from esper_core.reading import journal_condition, open_run

        if args.output == Path("-"):
            args.output = None
        new: Path | None = args.sqlite or args.parquet
        if new is not None and args.output is not None:
            option = "--sqlite" if args.sqlite else "--parquet"
            raise UsageError(f"{option} names its file itself, and -o another", hint=f"{option} FILE alone")
        base = runs_dir(args)
        runs = [open_run(spec, base) for spec in args.runs]
        if all(journal_condition(run.directory, run.record).absent for run in runs):
            refuse_without_journal(runs[0])
        source = _Source(runs)
        if new is not None:
            count = _write_new(source, new, args)
        else:
            as_lines = args.jsonl or (args.output is not None and args.output.suffix == ".jsonl" and not args.csv)
            count = _write_text(source, args.output, _write_jsonl if as_lines else _write_csv)
        target = new or args.output
        if target is not None:
            say(f"{count} updates of {len(runs)} run{'s' if len(runs) > 1 else ''} written to {target}")
        for reader in source.readers:
            say_lines(reader)
        if len(source.errors) == 1:
            raise source.errors[0]
        for unread in source.errors:
            note(f"esper: {unread}")
        return EXIT_FAILED if source.errors else EXIT_OK


def _write_text(source: _Source, path: Path | None, write: Callable[[_Source, TextIO], int]) -> int:
    try:
        with _opened(path) as out:
            return write(source, out)
    except OSError as error:
        if path is None:
            raise  # stdout's: the command line says so for every command
        raise EsperError(f"cannot write {path}: {error.strerror or error}", hint="name another file with -o") from error


def _write_new(source: _Source, path: Path, args: argparse.Namespace) -> int:
    from esper_core.cli._export_files import new_file, write_parquet, write_sqlite

    write = write_sqlite if args.sqlite else write_parquet
    with new_file(path) as made:
        return write(source.blocks(), source.heading(), made)


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
        self._indexes: dict[Run, UpdateIndex] = {}
        self.readers: list[JournalReader] = []
        self.errors: list[JournalError] = []

    def _index(self, run: Run) -> UpdateIndex:
        """The run's index: it tells whether the lines lie in order, far cheaper than decoding them."""
        from esper_core.reading import scan_index

        if run not in self._indexes:
            self._indexes[run] = scan_index(run.directory)
        return self._indexes[run]

    def heading(self) -> list[str]:
        """The columns of all runs; those of evaluations where a run has one."""
        from esper_core.reading.evaluated import EVALUATION_COLUMNS
        from esper_core.reading.table import heading

        evaluated = False
        for run in self._runs:
            with contextlib.suppress(JournalError):  # said when the run's updates are read
                evaluated = evaluated or bool(self._index(run).evaluations)
        return [*heading(self._shapes()), *(EVALUATION_COLUMNS if evaluated else ())]

    def _shapes(self) -> Iterator[PPOUpdatePayload]:
        """Updates that between them have every head and divergence."""
        from esper_core.reading.stream import shape_updates

        for run in self._runs:
            with contextlib.suppress(JournalError):  # said when the run's updates are read
                yield from shape_updates(run.directory, self._index(run).diverging)

    def blocks(self) -> Iterator[Block]:
        """The effective updates, run after run, saying how far they are."""
        from esper_core.cli._progress import counted

        known = [record.updates for run in self._runs if (record := run.record) is not None]
        total = sum(known) if len(known) == len(self._runs) else None
        return counted(self._read(), "updates written", total, weight=lambda block: block.rows)

    def _read(self) -> Iterator[Block]:
        from esper_core.reading.evaluated import beside
        from esper_core.reading.stream import stream_blocks
        from esper_core.runs import JournalReader

        for run in self._runs:
            reader = JournalReader(run.directory)
            self.readers.append(reader)
            try:
                refuse_without_journal(run)
                played = {one.update_id: one for one in self._index(run).evaluations}
                for block in stream_blocks(self._index(run), reader):
                    yield beside(block, played) if played else block
                reader.check()
            except JournalError as error:
                self.errors.append(error)


def _write_csv(source: _Source, out: TextIO) -> int:
    from esper_core.reading.written import write_csv

    return write_csv(source.blocks(), source.heading(), out)


def _write_jsonl(source: _Source, out: TextIO) -> int:
    from esper_core.reading.written import write_jsonl

    return write_jsonl(source.blocks(), out)


command = ExportCommand()

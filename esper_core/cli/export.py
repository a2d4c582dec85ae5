"""``esper export``: writes the effective updates of runs as a table for a notebook or a spreadsheet."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from esper_core.cli._output import say
from esper_core.cli._parser import add_config_arguments, runs_dir
from esper_core.errors import EXIT_OK, EsperError
from esper_core.terminal import printable

if TYPE_CHECKING:
    import argparse

    from esper_core.reading import Run

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
        from esper_core.reading import open_run

        base = runs_dir(args)
        runs = [open_run(spec, base) for spec in args.runs]
        as_lines = args.jsonl or (args.output is not None and args.output.suffix == ".jsonl" and not args.csv)
        write = _write_jsonl if as_lines else _write_csv
        try:
            with _opened(args.output) as out:
                count = write(runs, out)
        except OSError as error:
            if args.output is None:
                raise  # stdout's: the command line says so for every command
            raise EsperError(
                f"cannot write {args.output}: {error.strerror or error}", hint="name another file with -o"
            ) from error
        if args.output is not None:
            say(f"{count} updates of {len(runs)} run{'s' if len(runs) > 1 else ''} written to {args.output}")
        return EXIT_OK


def _opened(path: Path | None) -> contextlib.AbstractContextManager[TextIO]:
    if path is None:
        return contextlib.nullcontext(_Shown() if sys.stdout.isatty() else sys.stdout)
    return path.open("w", encoding="utf-8", newline="")


class _Shown(io.StringIO):
    """Passes rows on to a terminal without the control characters of names in them; files get them as they are."""

    def write(self, text: str, /) -> int:
        """Print the text."""
        return sys.stdout.write(printable(text))


def _write_csv(runs: list[Run], out: TextIO) -> int:
    from itertools import chain

    from esper_core.reading.table import heading, write_csv

    names = heading(update for run in runs for update in run.first_updates())
    return write_csv(chain.from_iterable(run.updates() for run in runs), names, out)


def _write_jsonl(runs: list[Run], out: TextIO) -> int:
    from itertools import chain

    from esper_core.reading.table import write_jsonl

    return write_jsonl(chain.from_iterable(run.updates() for run in runs), out)


command = ExportCommand()

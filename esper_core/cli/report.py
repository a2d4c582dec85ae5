"""``esper report``: one page about runs, to send to someone or to keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from esper_core.cli._output import say, say_text
from esper_core.cli._parser import add_config_arguments, runs_dir
from esper_core.errors import EXIT_OK, EsperError, UsageError

if TYPE_CHECKING:
    import argparse

__all__ = ["ReportCommand", "command"]

_DEFAULT = Path("report.html")
_STDOUT = Path("-")


class ReportCommand:
    """Writes a page about runs."""

    name = "report"
    help = "write one self-contained HTML page about runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("runs", nargs="+", metavar="RUN", help="path, id, unique part of one, or latest")
        parser.add_argument("-o", "--output", type=Path, metavar="FILE.html", help=f"- is stdout; default {_DEFAULT}")
        parser.add_argument("--dir", metavar="DIR", help="folder that holds the runs; default run.dir, which is runs")
        add_config_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Write the page."""
        from esper_core.cli._progress import followed
        from esper_core.cli._report_page import page
        from esper_core.reading import open_run
        from esper_core.reading.report import report

        path: Path = args.output or _DEFAULT
        if args.output is None:
            _refuse_foreign(path)
        base = runs_dir(args)
        text = page(report([open_run(spec, base) for spec in args.runs], follow=followed))
        if path == _STDOUT:
            say_text(text)
            return EXIT_OK
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise EsperError(
                f"cannot write {path}: {error.strerror or error}", hint="name another file with -o"
            ) from error
        say(f"report written to {path}")
        return EXIT_OK


def _refuse_foreign(path: Path) -> None:
    """Without -o an earlier report is replaced, but no other page of that name."""
    from esper_core.cli._report_page import MARK

    try:
        start = path.read_bytes()[:1000]
    except OSError:
        return  # not there, or the writing will say what is wrong
    if f'content="{MARK}"'.encode() not in start:
        raise UsageError(f"{path} is there and is no report of Esper's", hint="name the file with -o")


command = ReportCommand()

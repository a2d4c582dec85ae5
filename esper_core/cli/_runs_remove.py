"""``esper runs rm`` and ``esper runs prune``: delete runs, after asking."""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import TYPE_CHECKING, Final

from esper_core.cli._columns import aligned
from esper_core.cli._output import note, say
from esper_core.cli._parser import EsperParser, add_config_arguments, runs_dir, whole_number
from esper_core.errors import EXIT_FAILED, EXIT_OK, EsperError, UsageError
from esper_core.health import RunState

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.runs import RunDir

__all__ = ["add_parts", "prune_runs", "remove_runs"]

_UNITS: Final = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)([mhdw])")
_STATES: Final = tuple(
    state.value for state in (RunState.DONE, RunState.STOPPED, RunState.FAILED, RunState.CRASHED, RunState.UNKNOWN)
)


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Declare ``rm`` and ``prune``; without one of them the command lists."""
    parts = parser.add_subparsers(dest="part", metavar="rm|prune", parser_class=EsperParser)
    remove = parts.add_parser("rm", help="delete runs by name, after asking; never one that may still train")
    remove.add_argument("runs", nargs="+", metavar="RUN", help="path, id, name, unique part of an id, or latest")
    prune = parts.add_parser("prune", help="delete old runs, after asking; never one that may still train")
    prune.add_argument(
        "--older-than", type=_age, metavar="AGE", help="whose last sign of life is older: 90m, 12h, 30d, 8w"
    )
    prune.add_argument("--keep", type=whole_number, metavar="N", help="all but the newest N of those that fit the rest")
    prune.add_argument(
        "--state", action="append", choices=_STATES, help=f"in this state: {', '.join(_STATES)}; repeatable"
    )
    for part in (remove, prune):
        part.add_argument("-y", "--yes", action="store_true", help="do not ask")
        part.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
        part.add_argument("--dir", metavar="DIR", default=argparse.SUPPRESS, help="folder that holds the runs")
        add_config_arguments(part)
        for action in part._actions:  # noqa: SLF001  # argparse: a subparser's default would undo the parent's value
            if action.dest in {"config", "no_config", "sets"}:
                action.default = argparse.SUPPRESS


def _age(text: str) -> float:
    """Seconds."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age, such as 90m, 12h, 30d or 8w")
    return float(found.group(1)) * _UNITS[found.group(2)]


def remove_runs(args: argparse.Namespace) -> int:
    """Delete the named runs: all of them, or none when one must not be.

    Raises:
        UsageError: a name fits no run, or a run must not be deleted.
    """
    from esper_core.runs.removal import refusal
    from esper_core.runs.search import find_run

    base = runs_dir(args)
    found: dict[Path, RunDir] = {}
    for spec in args.runs:
        run = find_run(spec, base)
        _refuse_file(spec, run)
        reason = refusal(run)
        if reason:
            raise UsageError(f"runs rm: {run.path} stays: {reason}", hint="nothing was deleted")
        found[run.path.absolute()] = run
    return _delete(list(found.values()), args)


def _refuse_file(spec: str, run: RunDir) -> None:
    """A file of a run names the run everywhere else; who wants to delete a file must not lose the run."""
    from pathlib import Path

    if Path(spec).is_file():
        raise UsageError(f"runs rm: {spec} is a file of the run {run.path}", hint="name the run itself to delete it")


def prune_runs(args: argparse.Namespace) -> int:
    """Delete the runs that fit every given criterion and have surely ended.

    Raises:
        UsageError: no criterion was given.
    """
    from esper_core.runs import list_runs, read_state
    from esper_core.runs.removal import last_sign_ns, refusal

    if args.older_than is None and args.keep is None and not args.state:
        raise UsageError("runs prune: which runs?", hint="--older-than 30d, --keep 20, --state crashed, or several")
    if args.keep is not None and args.keep < 0:
        raise UsageError(f"runs prune: --keep is {args.keep}, at least 0 is needed")
    now = time.time_ns()
    fitting = []
    for run in list_runs(runs_dir(args)):
        if run.path.is_symlink():
            continue  # it is no run of its own: it would take the place of one that --keep means
        if args.state and read_state(run)[1].value not in args.state:
            continue
        if args.older_than is not None and (now - last_sign_ns(run)) / 1e9 < args.older_than:
            continue
        fitting.append(run)
    chosen = []
    for run in fitting[args.keep or 0 :]:
        reason = refusal(run)
        if reason:
            say(f"stays: {run.path.name}: {reason}")
        else:
            chosen.append(run)
    return _delete(chosen, args)


def _delete(runs: list[RunDir], args: argparse.Namespace) -> int:
    """Show, ask and delete."""
    from esper_core.runs.removal import remove_run, run_bytes

    if not runs:
        say("nothing to delete")
        return EXIT_OK
    sizes = [run_bytes(run) for run in runs]
    say(*_table(runs, sizes))
    total = f"{len(runs)} run{'s' if len(runs) > 1 else ''}, {_size(sum(sizes))}"
    if args.dry_run:
        say(f"would delete {total}; nothing was deleted")
        return EXIT_OK
    if not args.yes and not _agreed(total):
        say("nothing was deleted")
        return EXIT_FAILED
    failed = 0
    for run in runs:
        try:
            remove_run(run)
        except EsperError as error:
            failed += 1
            note(f"esper: {error}")
    say(f"deleted {total}" if not failed else f"deleted {len(runs) - failed} of {total}")
    return EXIT_FAILED if failed else EXIT_OK


def _agreed(total: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            f"would delete {total}, and there is nobody to ask",
            hint="--yes deletes without asking, --dry-run only lists",
        )
    try:
        return input(f"delete {total}? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        say("")
        return False


def _table(runs: list[RunDir], sizes: list[int]) -> list[str]:
    from esper_core.reading.numbers import age
    from esper_core.runs import read_state
    from esper_core.runs.removal import last_sign_ns

    now = time.time_ns()
    rows = [
        (str(run.path.name), read_state(run)[1].value, age(max((now - last_sign_ns(run)) / 1e9, 0.0)), _size(size))
        for run, size in zip(runs, sizes, strict=True)
    ]
    return aligned([("RUN", "STATE", "LAST SIGN", "SIZE"), *rows], frozenset({2, 3}))


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    value = count / 1000
    for unit in ("kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"

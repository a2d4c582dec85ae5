"""``esper runs``: lists every run in a folder with its state, verdict, KL and return; ``rm`` and ``prune`` delete."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from esper_core.cli._damage import say_faults
from esper_core.cli._output import say, say_text
from esper_core.cli._parser import add_config_arguments, runs_dir, whole_number
from esper_core.cli._runs_remove import add_parts, prune_runs, remove_runs
from esper_core.errors import EXIT_OK, JournalError, UsageError

if TYPE_CHECKING:
    import argparse

    from esper_core.runs import RunDir, RunRecord

__all__ = ["RunsCommand", "command"]

_SHOWN: Final = 20
_HEADING: Final = ("RUN", "STATE", "VERDICT", "UPDATES", "KL", "RETURN", "AGE")
_NUMBERS: Final = frozenset({3, 4, 5, 6, 7})


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One run; field names are the keys of ``--json``."""

    run: str
    path: str
    name: str
    environment: str
    state: str
    verdict: str
    reason: str
    attempt: int
    ranks: int
    processes: tuple[dict[str, object], ...]
    updates: int
    env_steps: int
    kl_divergence: float | None
    kl_joint: float | None
    kl_on: str
    kl_warning: float
    kl_critical: float
    return_mean: float | None
    no_journal: bool
    started_ns: int | None
    age_s: float | None


class RunsCommand:
    """Lists runs, and deletes them."""

    name = "runs"
    help = "list runs with state, verdict, KL and return; delete some"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("--dir", metavar="DIR", help="folder that holds the runs; default run.dir, which is runs")
        parser.add_argument(
            "-n", type=whole_number, default=_SHOWN, metavar="N", help="newest runs to show, 0 for all (20)"
        )
        parser.add_argument("--json", action="store_true", help="as JSON: a list, newest first; NaN is null")
        add_config_arguments(parser)
        add_parts(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Print the runs, or delete some."""
        if args.part == "rm":
            return remove_runs(args)
        if args.part == "prune":
            return prune_runs(args)
        return self._list(args)

    def _list(self, args: argparse.Namespace) -> int:
        from esper_core.reading import run_faults
        from esper_core.runs import list_runs

        if args.n < 0:
            raise UsageError(f"runs: -n is {args.n}, at least 0 is needed", hint="-n 0 shows all")
        base = runs_dir(args)
        found = list_runs(base)
        shown = found[: args.n] if args.n > 0 else found
        now = time.time_ns()
        rows = [_row(run, now) for run in shown]
        faults = [fault for run in shown for fault in run_faults(run)]
        if args.json:
            say_text(json.dumps([_jsonable(row) for row in rows], indent=2))
            say_faults(faults)
            return EXIT_OK
        if not rows:
            say(f"no runs in {base.absolute()}; start one with: esper ppo --episodes 20")
            return EXIT_OK
        say(*_table(rows))
        if len(found) > len(shown):
            say(f"and {len(found) - len(shown)} older; -n 0 shows all")
        say_faults(faults)
        return EXIT_OK


def _row(directory: RunDir, now: int) -> _Row:
    from esper_core.health import DEFAULT_KL_LIMITS
    from esper_core.reading import Run, journal_condition, run_limits, run_verdict
    from esper_core.reading.returns import return_to_show
    from esper_core.runs import read_state
    from esper_core.runs.creation import started_ns

    record, state = read_state(directory, now_ns=now)
    journal = journal_condition(directory, record)
    unreadable = ""
    try:
        recent, limits = Run(directory).last_updates(3), run_limits(directory)
    except JournalError as error:  # an error in one run must not hide the others
        recent, limits, unreadable = [], DEFAULT_KL_LIMITS, error.message
    last = recent[-1] if recent else None
    if journal.unread and not recent:
        unreadable = str(journal.unread[0])
    judged = run_verdict(record, recent, limits=limits, now_ns=now, state=state, journal=journal)
    started = started_ns(directory.path, record.started_ns if record is not None else 0)
    payload = last.payload if last is not None else None
    told = _summary(directory) if journal.absent else {}
    updates, steps = (payload.update_id, payload.env_steps) if payload is not None else (0, 0)
    if record is not None:
        updates, steps = max(updates, record.updates), max(steps, record.env_steps)
    return _Row(
        run=directory.path.name,
        path=str(directory.path),
        name=record.name if record is not None else "",
        environment=record.environment if record is not None else "",
        state=state.value,
        verdict=judged.label if not unreadable else "unreadable",
        reason=unreadable or judged.reason,
        attempt=record.attempt if record is not None else (last.attempt if last is not None else 1),
        ranks=record.ranks if record is not None else 1,
        processes=_processes(record),
        updates=updates,
        env_steps=steps,
        kl_divergence=payload.kl_divergence if payload is not None else told.get("kl_divergence"),
        kl_joint=payload.kl_joint if payload is not None else told.get("kl_joint"),
        kl_on=limits.on,
        kl_warning=limits.warning,
        kl_critical=limits.critical,
        return_mean=return_to_show(payload) if payload is not None else told.get("return_mean_100"),
        no_journal=bool(journal.absent),
        started_ns=started,
        age_s=(now - started) / 1e9 if started is not None else None,
    )


def _processes(record: RunRecord | None) -> tuple[dict[str, object], ...]:
    """Of each rank of several, by name: its process, and the log that it writes."""
    from esper_core.runs.ranks import log_name

    return tuple(
        {"rank": item.rank, "pid": item.pid, "host": item.host, "log": log_name(item.rank)}
        for item in (record.processes if record is not None else ())
    )


def _summary(directory: RunDir) -> dict[str, float]:
    """The numbers that ``summary.json`` holds of the end of a run; empty when there are none."""
    from esper_core.reading import Run

    try:
        found = Run(directory).summary or {}
    except JournalError:
        return {}
    return {key: float(value) for key, value in found.items() if type(value) in {int, float}}


def _table(rows: list[_Row]) -> list[str]:
    from esper_core.cli._columns import aligned
    from esper_core.reading.numbers import age, plain

    cells = [
        (
            row.run,
            row.state,
            "no journal" if row.no_journal and row.verdict == "unknown" else row.verdict,
            str(row.updates),
            _kl_text(row),
            plain(row.return_mean, 1),
            age(row.age_s),
        )
        for row in rows
    ]
    table = [_HEADING, *cells]
    if any(row.ranks > 1 for row in rows):  # only where there is something to tell
        told = ["RANKS", *(str(row.ranks) for row in rows)]
        return aligned([(*cells, ranks) for cells, ranks in zip(table, told, strict=True)], _NUMBERS)
    return aligned(table, _NUMBERS)


def _kl_text(row: _Row) -> str:
    """The judged KL, and that it is the joint one."""
    from esper_core.health import KLLimits, format_kl

    if row.kl_on == "joint":
        limits = KLLimits(on="joint", warning=row.kl_warning, critical=row.kl_critical)
        return f"joint {format_kl(row.kl_joint, limits=limits)}"
    return format_kl(row.kl_divergence, limits=KLLimits(warning=row.kl_warning, critical=row.kl_critical))


def _jsonable(row: _Row) -> dict[str, object]:
    """Replace NaN and Inf by None: JSON has neither."""
    return {
        key: None if isinstance(value, float) and value - value != 0 else value for key, value in asdict(row).items()
    }


command = RunsCommand()

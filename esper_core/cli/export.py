"""``esper export``: the effective updates of runs as a table for a notebook or a spreadsheet."""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from esper_core.cli._parser import add_config_arguments, runs_dir
from esper_core.errors import EXIT_OK, EsperError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from esper_core.events import PPOUpdatePayload, TelemetryEvent
    from esper_core.runs import Run

__all__ = ["ExportCommand", "columns", "command"]


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
        """Write them."""
        from esper_core.runs import open_run

        base = runs_dir(args)
        runs = [open_run(spec, base) for spec in args.runs]
        as_lines = args.jsonl or (args.output is not None and args.output.suffix == ".jsonl" and not args.csv)
        write = _write_jsonl if as_lines else _write_csv
        try:
            with _opened(args.output) as out:
                count = write(runs, out)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise EsperError(f"cannot write {args.output or 'the output'}: {error.strerror or error}") from error
        if args.output is not None:
            print(f"{count} updates of {len(runs)} run{'s' if len(runs) > 1 else ''} written to {args.output}")
        return EXIT_OK


def _opened(path: Path | None) -> contextlib.AbstractContextManager[TextIO]:
    if path is None:
        return contextlib.nullcontext(sys.stdout)
    return path.open("w", encoding="utf-8", newline="")


def columns() -> dict[str, Callable[[PPOUpdatePayload], object]]:
    """Columns of an update, by name: every scalar field of the payload, and those of its early stop.

    Derived from the dataclass, so that a new field is a new column. Head columns depend on the run's heads and are
    made beside the rows; series (``kl_by_epoch``) have no place in a table and stay in the journal.
    """
    import typing
    from dataclasses import fields

    from esper_core.events import EarlyStop, PPOUpdatePayload

    def own(name: str) -> Callable[[PPOUpdatePayload], object]:
        return lambda payload: getattr(payload, name)

    def stop(name: str) -> Callable[[PPOUpdatePayload], object]:
        return lambda payload: None if payload.early_stop is None else getattr(payload.early_stop, name)

    found: dict[str, Callable[[PPOUpdatePayload], object]] = {}
    hints = typing.get_type_hints(PPOUpdatePayload)
    for item in fields(PPOUpdatePayload):
        hint = hints[item.name]
        if EarlyStop in typing.get_args(hint):
            found.update({f"{item.name}.{part.name}": stop(part.name) for part in fields(EarlyStop)})
        elif typing.get_origin(hint) is not tuple:
            found[item.name] = own(item.name)
    return found


def _rows(run: Run) -> Iterator[dict[str, object]]:
    """One flat row an update; what was not measured is None."""
    own, parts = columns(), _head_parts()
    for event in run.updates():
        yield _row(event, own, parts)


def _row(
    event: TelemetryEvent[PPOUpdatePayload], own: dict[str, Callable[[PPOUpdatePayload], object]], parts: list[str]
) -> dict[str, object]:
    row: dict[str, object] = {"run": event.run_id, "attempt": event.attempt, "time": _iso(event)}
    row.update({name: value(event.payload) for name, value in own.items()})
    for head in event.payload.heads:
        row.update({f"head.{head.name}.{part}": getattr(head, part) for part in parts})
    return row


def _head_parts() -> list[str]:
    from dataclasses import fields

    from esper_core.events import HeadStats

    return [item.name for item in fields(HeadStats) if item.name != "name"]


def _iso(event: TelemetryEvent[PPOUpdatePayload]) -> str:
    """The event's time in UTC, to the microsecond."""
    import datetime as dt

    moment = dt.datetime.fromtimestamp(event.time_ns // 1_000_000_000, tz=dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{event.time_ns % 1_000_000_000 // 1000:06d}Z"


def _write_csv(runs: list[Run], out: TextIO) -> int:
    """Empty cells for what was not measured; ``nan`` and ``inf`` as any reader of CSV takes them."""
    import csv

    heading = dict.fromkeys(["run", "attempt", "time", *columns()])
    for run in runs:
        heading.update(dict.fromkeys(_head_columns(run)))
    writer = csv.DictWriter(out, list(heading), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    count = 0
    for run in runs:
        for row in _rows(run):
            writer.writerow(row)
            count += 1
    return count


def _head_columns(run: Run) -> list[str]:
    """Columns of a run's heads: they stay the same within an attempt, so the first update of each says them."""
    from esper_core.events import PPOUpdatePayload
    from esper_core.runs import JournalReader
    from esper_core.runs.history import attempt_starts

    found: dict[str, None] = {}
    for attempt in attempt_starts(run.directory):
        for event in JournalReader(run.directory, attempt=attempt).stream():
            if isinstance(event.payload, PPOUpdatePayload):
                names = [f"head.{head.name}.{part}" for head in event.payload.heads for part in _head_parts()]
                found.update(dict.fromkeys(names))
                break
    return list(found)


def _write_jsonl(runs: list[Run], out: TextIO) -> int:
    """What was not measured is left out; NaN and infinities are the strings ``NaN``, ``Infinity``, ``-Infinity``."""
    import json

    count = 0
    for run in runs:
        for row in _rows(run):
            known = {name: _json_value(value) for name, value in row.items() if value is not None}
            out.write(json.dumps(known, ensure_ascii=False) + "\n")
            count += 1
    return count


def _json_value(value: object) -> object:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


command = ExportCommand()

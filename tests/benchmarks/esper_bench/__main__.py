"""``python -m esper_bench``: measure rows and print them; record them, or compare them with the recorded ones."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper_bench import record, table
from esper_bench.meter import Meter, PartyFailedError
from esper_bench.subjects import SUBJECTS
from esper_bench.verdict import compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from esper_bench.record import Measured, Record
    from esper_bench.row import Row
    from esper_bench.verdict import Finding

RECORDED: Final = Path(__file__).resolve().parents[1] / "results" / "peers.json"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 1 when Esper failed in a row, or a compared ratio has left its spread twice."""
    args = _parser().parse_args(arguments)
    chosen = {
        subject: [row for row in rows if _is_wanted(row, args.rows, quick=args.quick)]
        for subject, rows in SUBJECTS.items()
    }
    if args.rows and not any(chosen.values()):
        print("no row has that in its name: " + ", ".join(row.name for row in _all_rows()), file=sys.stderr)
        return 64
    known = record.read(RECORDED)
    here = record.machine()
    if args.record and args.rows and known is not None and known.machine != here:
        print(f"{RECORDED.name} is of {known.machine.cpu}: record every row of this machine", file=sys.stderr)
        return 64
    print(table.head(here), flush=True)
    found, failed = _measure(chosen, args.rounds, light=args.quick, keep=_record if args.record else None)
    if args.check:
        failed |= _check(known, found, args.rounds, light=args.quick)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m esper_bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="rows with this in their names; default all")
    parser.add_argument("--quick", action="store_true", help="only the quick rows, without the peers of bench-peers")
    parser.add_argument("--rounds", type=_count, metavar="N", help="rounds of each row; default each row's own")
    parser.add_argument("--record", action="store_true", help=f"write the rows into {RECORDED.name}")
    parser.add_argument("--check", action="store_true", help="fail when a ratio has left its recorded spread")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _is_wanted(row: Row, words: list[str], *, quick: bool) -> bool:
    return (row.quick or not quick) and (not words or any(word in row.name for word in words))


def _all_rows() -> Iterator[Row]:
    for rows in SUBJECTS.values():
        yield from rows


def _record(row: Measured) -> None:
    """Write one row into the file at once: an interruption, or another process recording other rows, loses none."""
    known, here = record.read(RECORDED), record.machine()
    kept = known if known is not None and known.machine == here else record.Record(machine=here)
    record.write(kept.with_rows([row], [row.name for row in _all_rows()]), RECORDED)


def _measure(
    chosen: dict[str, list[Row]],
    rounds: int | None,
    *,
    light: bool,
    keep: Callable[[Measured], None] | None = None,
) -> tuple[list[Measured], bool]:
    """The rows, printed and kept as they come; and whether Esper failed in one."""
    found, failed = [], False
    for subject, rows in chosen.items():
        if rows:
            print(f"\n{subject}", flush=True)
        with Meter() as meter:
            for row in rows:
                try:
                    load = os.getloadavg()[0]
                    turns = meter.measure(row, rounds=rounds, light=light)
                except PartyFailedError as failure:
                    print(f"{row.name}: {failure}", file=sys.stderr)
                    failed = True
                    continue
                found.append(record.measured(subject, row, turns, load=load))
                print("\n".join(table.lines(found[-1])), flush=True)
                if keep is not None:
                    keep(found[-1])
    return found, failed


def _check(known: Record | None, found: list[Measured], rounds: int | None, *, light: bool) -> bool:
    """Print what differs; a row that fails is measured once more, and fails only when it does so again."""
    if known is None:
        print(f"\nnothing is recorded in {RECORDED}: make bench")
        return True
    if known.machine != record.machine():
        print(f"\nrecorded on {known.machine.cpu} with Python {known.machine.python}, torch {known.machine.torch}:")
        print("ratios depend on the processor; record here before you trust a difference")
    findings = [finding for row in found for finding in compare(known.row(row.name), row)]
    again = {finding.row for finding in findings if finding.fails}
    if again:
        print(f"\nonce more: {', '.join(sorted(again))}")
        chosen = {subject: [row for row in rows if row.name in again] for subject, rows in SUBJECTS.items()}
        second, _ = _measure(chosen, rounds, light=light)
        findings = [finding for finding in findings if finding.row not in again]
        findings += [finding for row in second for finding in compare(known.row(row.name), row)]
    return _tell(findings)


def _tell(findings: list[Finding]) -> bool:
    print()
    for finding in findings:
        if finding.verdict != "held":
            print(f"{finding.verdict}: {finding.row} {finding.peer}: {finding.text}")
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in ("held", "slower")}
    print(f"{counts['held']} ratios held, {counts['slower']} slower")
    return any(finding.fails for finding in findings)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # what was recorded so far is kept
        sys.exit(130)

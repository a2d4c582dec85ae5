"""``esper verify [TELE-111]``: verifies telemetry records automatically, from the claims in their front matter."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from esper_core.errors import EXIT_FAILED, EXIT_OK
from esper_core.terminal import one_line

if TYPE_CHECKING:
    import argparse

    from esper_verify.checks import Check

__all__ = ["VerifyCommand", "command"]


class VerifyCommand:
    """Verifies records."""

    name = "verify"
    help = "prove the telemetry records of docs/telemetry: emitter to display"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("records", nargs="*", metavar="TELE-N", help="record ids; default: all")
        parser.add_argument("--records-dir", type=Path, metavar="DIR", help="default: docs/telemetry, here or above")
        parser.add_argument("--json", action="store_true", help="one JSON document")

    def run(self, args: argparse.Namespace) -> int:
        """Run the checks, print one line per check, and return 1 when one failed."""
        from esper_verify.checks import Context, run_checks  # noqa: PLC0415  # not for --help
        from esper_verify.record import find_records  # noqa: PLC0415  # as above
        from esper_verify.training import train  # noqa: PLC0415  # as above

        root, records = find_records(args.records, args.records_dir, Path.cwd())
        with tempfile.TemporaryDirectory(prefix="esper-verify-") as folder:
            context = Context(root, train(Path(folder)))
        results: list[Check] = []
        for record in records:
            found = run_checks(record, context)
            results.extend(found)
            if not args.json:
                _print_record(record.front.id, record.front.title, found)
        failed = sum(not item.passed for item in results)
        if args.json:
            rows = [
                {"record": item.record, "check": item.name, "passed": item.passed, "evidence": item.evidence}
                for item in results
            ]
            print(json.dumps({"passed": not failed, "failed": failed, "checks": rows}, indent=2))
        else:
            print(f"{len(results) - failed} of {len(results)} checks hold")
        return EXIT_FAILED if failed else EXIT_OK


def _print_record(name: str, title: str, found: list[Check]) -> None:
    encoding = (sys.stdout.encoding or "ascii").lower()
    yes, no = ("✓", "✗") if encoding.startswith("utf") else ("ok", "FAILED")
    print(one_line(f"{name}  {title}"))
    for item in found:
        print(one_line(f"  {yes if item.passed else no} {item.name:<10} {item.evidence}"))


command = VerifyCommand()

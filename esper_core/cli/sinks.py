"""``esper sinks``: lists the installed sinks, checks the selected ones, and creates the package of a new one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from esper_core.cli._output import say
from esper_core.cli._parser import EsperParser, add_config_arguments, add_sink_arguments, resolve_config
from esper_core.errors import EXIT_OK

if TYPE_CHECKING:
    from esper_core.config.layers import Resolved

__all__ = ["SinksCommand", "command"]


class SinksCommand:
    """Lists, checks and creates sinks."""

    name = "sinks"
    help = "list, check and create sinks"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare ``list``, ``check`` and ``new``; without one of them it lists."""
        add_config_arguments(parser)
        add_sink_arguments(parser)
        parts = parser.add_subparsers(dest="part", metavar="list|check|new", parser_class=EsperParser)
        listing = parts.add_parser("list", help="print what is installed and what is selected (imports none of them)")
        check = parts.add_parser("check", help="open the selected sinks and send each a marked event")
        for part in (listing, check):
            add_config_arguments(part)
            add_sink_arguments(part)
            for action in part._actions:  # noqa: SLF001  # argparse: a subparser's default would undo the parent's value
                action.default = argparse.SUPPRESS
        new = parts.add_parser("new", help="write a package for a sink of your own, with tests that pass")
        new.add_argument("sink_name", metavar="NAME", help="what the configuration will call it, for example redis")
        new.add_argument("--dir", metavar="DIR", help="where to write it; default: ./esper-sink-NAME")

    def run(self, args: argparse.Namespace) -> int:
        """List, check or create."""
        if args.part == "new":
            from esper_core.cli._sink_new import write_package

            return write_package(args.sink_name, args.dir)
        resolved = resolve_config(args)
        if args.part == "check":
            from esper_core.cli._sink_check import check_sinks

            return check_sinks(resolved)
        say(*_table(resolved))
        return EXIT_OK


def _table(resolved: Resolved) -> list[str]:
    from esper_core.config.schema import EsperConfig
    from esper_core.host.load.discovery import duplicate_sinks, installed_sinks
    from esper_core.host.load.selection import to_install_sinks

    installed = installed_sinks()
    selected = list(resolved.config.sinks)
    rivals = duplicate_sinks()
    rows = [("NAME", "DISTRIBUTION", "VERSION", "SELECTED", "DELIVERY", "FROM")]
    for name, sink in installed.items():
        note = f"  claimed by {len(rivals[name])} distributions" if name in rivals else ""
        rows.append(
            (
                name,
                sink.distribution,
                sink.version,
                "yes" if name in selected else "no",
                _delivery(resolved, name),
                sink.value + note,
            )
        )
    for spec in selected:
        if spec not in installed:
            missing = "" if ".py:" in spec else "not installed"
            rows.append((spec, missing, "", "yes", _delivery(resolved, spec), "a file" if not missing else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if not installed:
        lines.append(f"no sink is installed; for a start: {to_install_sinks(EsperConfig().sinks)}")
    origin = resolved.origins.get("sinks", "default")
    return [*lines, "", f"selected: {', '.join(selected) or 'none'}  ({origin})"]


def _delivery(resolved: Resolved, name: str) -> str:
    """The delivery that the configuration sets; the sink's own default is in its class, which is not imported here."""
    options = resolved.config.delivery.get(name)
    return "" if options is None or options.mode == "default" else options.mode


command = SinksCommand()

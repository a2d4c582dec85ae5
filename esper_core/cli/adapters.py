"""``esper adapters``: lists the adapters for other libraries' loops, and checks one with the user's installation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from esper_core.cli._columns import aligned
from esper_core.cli._output import say
from esper_core.cli._parser import EsperParser
from esper_core.errors import EXIT_FAILED, EXIT_OK, UsageError, nearest

if TYPE_CHECKING:
    import argparse

    from esper_core.installed import Installed
    from esper_core.monitoring.adapter import Adapter

__all__ = ["AdaptersCommand", "command"]


class AdaptersCommand:
    """Lists and checks adapters."""

    name = "adapters"
    help = "list and check the adapters for other libraries' loops"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare ``list`` and ``check``; without one of them it lists."""
        parts = parser.add_subparsers(dest="part", metavar="list|check", parser_class=EsperParser)
        parts.add_parser("list", help="print each adapter, its library, the installed version and the tested ones")
        check = parts.add_parser("check", help="train a tiny run with your installation and compare the KLs")
        check.add_argument("adapter", metavar="NAME", help="for example sb3")

    def run(self, args: argparse.Namespace) -> int:
        """List or check."""
        from esper_core.installed import ADAPTER_GROUP, installed

        found = installed(ADAPTER_GROUP)
        if args.part == "check":
            return _check(args.adapter, found)
        if not found:
            say("no adapter is installed; for Stable-Baselines3: pip install esper-sb3")
            return EXIT_OK
        rows: list[tuple[str, ...]] = [("NAME", "DISTRIBUTION", "VERSION", "LIBRARY", "INSTALLED", "TESTED", "FITS")]
        rows += [_row(name, entry) for name, entry in found.items()]
        say(*aligned(rows))
        return EXIT_OK


def _row(name: str, entry: Installed) -> tuple[str, ...]:
    try:
        adapter = _load(name, entry)
    except UsageError as error:
        return (name, entry.distribution, entry.version, "-", "-", "-", f"broken: {error.message}")
    fits = "yes" if adapter.fits else ("no" if adapter.installed else "not installed")
    return (
        name,
        entry.distribution,
        entry.version,
        adapter.library,
        adapter.installed or "-",
        adapter.tested,
        fits,
    )


def _load(name: str, entry: Installed) -> Adapter:
    try:
        return cast("Adapter", entry.load())
    except Exception as error:  # whatever the import of a third party's module raises
        raise UsageError(
            f'adapter "{name}" of {entry.distribution} cannot be imported: {type(error).__name__}: {error}',
            hint=f"pip install --upgrade {entry.distribution}",
        ) from error


def _check(name: str, found: dict[str, Installed]) -> int:
    if name not in found:
        raise UsageError(
            f'adapters: no adapter "{name}"{nearest(name, found)}',
            hint=f"installed: {', '.join(found) or 'none'}; others come as pip install esper-NAME",
        )
    adapter = _load(name, found[name])
    adapter.require()
    say(f"{name}: {adapter.library} {adapter.installed}, tested with {adapter.tested}; training a tiny run", flush=True)
    with tempfile.TemporaryDirectory(prefix="esper-adapters-") as folder:
        result = adapter.check(Path(folder))
    arrived = "ok    " if result.updates == result.expected else "FAILED"
    say(f"  {arrived}  {result.updates} of {result.expected} updates arrived, the last one included")
    for item in result.compared:
        word = "ok    " if item.agree else "FAILED"
        say(f"  {word}  {item.what}: {item.name} {item.theirs:.6f}, Esper {item.ours:.6f}")
    for note in result.notes:
        say(f"  note    {note}")
    return EXIT_OK if result.holds else EXIT_FAILED


command = AdaptersCommand()

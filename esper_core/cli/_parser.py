"""The argument parser, which raises UsageError (exit code 64, with the nearest option), and options commands share."""

from __future__ import annotations

import argparse
import os
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from esper_core.cli._output import note
from esper_core.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper_core.config.layers import Resolved
    from esper_core.reading import Run

__all__ = ["EsperParser", "add_config_arguments", "add_sink_arguments", "resolve_config", "runs_dir", "whole_number"]

_DIGITS: Final = 30
"""Decimal digits of a number that is read at all; its own bounds decide about it then."""


class EsperParser(argparse.ArgumentParser):
    """Raises UsageError instead of exiting with 2."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed through

    def error(self, message: str) -> NoReturn:
        """Raise the message that argparse would print."""
        raise UsageError(f"{self._label}: {message}", hint=f"see: {self.prog} --help")

    @property
    def _label(self) -> str:
        """The command's name for messages, without "esper": the prefix "esper:" is added to every error."""
        return self.prog.removeprefix("esper ")

    def parse_strict(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all arguments; raise UsageError for an unknown one, naming the nearest option."""
        args, extra = self.parse_known_args(list(argv))
        if extra:
            word = extra[0].partition("=")[0]
            known = set(self._option_strings(self))
            guess = nearest(word, known) if word.startswith("-") else ""
            what = "option" if word.startswith("-") else "argument"
            raise UsageError(f"{self._label}: unknown {what} {word}{guess}", hint=f"see: {self.prog} --help")
        return args

    @classmethod
    def _option_strings(cls, parser: argparse.ArgumentParser) -> list[str]:
        found: list[str] = []
        for action in parser._actions:  # noqa: SLF001  # argparse offers no public list of its options
            found += action.option_strings
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # as above
                for child in action.choices.values():
                    found += cls._option_strings(child)
        return found


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config``, ``--no-config`` and ``--set``, for every command that reads the configuration."""
    group = parser.add_argument_group("configuration")
    group.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of looking for one")
    group.add_argument("--no-config", action="store_true", help="read no configuration file")
    group.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any key, for example ppo.target_kl=0.01 (a TOML value, else a string); repeatable",
    )


def add_sink_arguments(parser: argparse.ArgumentParser) -> None:
    """``--sink``, ``--no-sink`` and ``--sinks``."""
    group = parser.add_argument_group("sinks")
    group.add_argument(
        "--sink",
        dest="add_sinks",
        action="append",
        default=[],
        metavar="NAME|FILE:CLASS",
        help="add a sink: an installed name, or ./my_sink.py:MySink; repeatable",
    )
    group.add_argument(
        "--no-sink",
        dest="drop_sinks",
        action="append",
        default=[],
        metavar="NAME",
        help="leave a selected sink out; repeatable",
    )
    group.add_argument("--sinks", metavar="A,B", help="replace the selected sinks; '' for none")


def resolve_config(
    args: argparse.Namespace, flags: Mapping[str, object] | None = None, *, resumed: Run | None = None
) -> Resolved:
    """Load the configuration for a command that has the shared options.

    Args:
        args: the parsed command line.
        flags: dotted path -> value of the command's named flags; None values are absent.
        resumed: a run whose own configuration has lower priority than the file.
    """
    from esper_core.config.layers import load_config

    named = dict(flags or {})
    sinks = getattr(args, "sinks", None)
    if sinks is not None:
        named["sinks"] = [name.strip() for name in sinks.split(",") if name.strip()]
    resolved = load_config(
        file=args.config,
        no_file=args.no_config,
        env=os.environ,
        sets=args.sets,
        flags=named,
        add_sinks=getattr(args, "add_sinks", ()),
        drop_sinks=getattr(args, "drop_sinks", ()),
        base=resumed.config if resumed is not None else None,
        base_label=f"run {resumed.run_id}" if resumed is not None else "",
    )
    if resumed is None:  # resolved before, without the run to resume
        note(*(f"esper: {notice}" for notice in resolved.notices))
    return resolved


def whole_number(text: str) -> int:
    """The number that an argument gives: ``1000000``, ``1_000_000`` or ``1e6``.

    Raises:
        ArgumentTypeError: it is no whole number.
    """
    try:
        number = Decimal(text)
        if number.is_finite() and number.adjusted() < _DIGITS and number == number.to_integral_value():
            return int(number)
    except InvalidOperation:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number, such as 1000000 or 1e6")


def runs_dir(args: argparse.Namespace) -> Path:
    """The folder of runs: ``--dir`` of the command, else ``run.dir`` of the configuration in force."""
    given = getattr(args, "dir", None)
    if given is not None:
        return Path(given)
    from esper_core.config.layers import load_config

    resolved = load_config(
        file=getattr(args, "config", None),
        no_file=getattr(args, "no_config", False),
        env=os.environ,
        sets=getattr(args, "sets", ()),
        flags={"preset": "none"},  # a preset sets no run.dir, and its look-up would search every distribution
    )
    note(*(f"esper: {notice}" for notice in resolved.notices))
    return Path(resolved.config.run.dir)

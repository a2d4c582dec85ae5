"""``esper sanctum``: attaches to running runs, opens finished ones, or receives OTLP."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper_core.errors import EXIT_FAILED, EXIT_OK, UsageError
from esper_core.terminal import one_line

if TYPE_CHECKING:
    import argparse

    from esper_core.reading.life import Life
    from esper_core.runs import RunDir
    from esper_sink_tui.watch import Watch

__all__ = ["SanctumCommand", "command", "parting"]

_TOKEN_VARIABLE: Final = "ESPER_SANCTUM_TOKEN"  # noqa: S105  # the variable's name, not a token
_MOST_CELLS: Final = 10_000
"""Columns or lines of ``--once``: more than any screen has, and drawn in seconds."""
_EPILOG: Final = (
    "exit codes of --once: 0 healthy or warm-up, 1 warning or events lost, 2 critical, non-finite, crashed or failed, "
    "3 unknown, stale or stalled, 64 wrong use"
)


class SanctumCommand:
    """Opens the viewer."""

    name = "sanctum"
    help = "watch runs, live or ended, in the terminal"
    after_run = "look at it"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        parser.epilog = _EPILOG
        parser.add_argument(
            "runs", nargs="*", metavar="RUN", help="run id, part of one, or path; default: the newest live one"
        )
        parser.add_argument("--dir", default="runs", metavar="DIR", help="folder that holds the runs (runs)")
        look = parser.add_argument_group("appearance")
        look.add_argument("--theme", default="esper", metavar="NAME", help="esper, esper-light, esper-mono, ...")
        look.add_argument("--ascii", action="store_true", help="draw with ASCII signs")
        look.add_argument("--bell", action="store_true", help="ring when the verdict gets worse")
        plain = parser.add_argument_group("without a terminal", _EPILOG)
        plain.add_argument("--once", action="store_true", help="print the screen as text and exit by the verdict")
        plain.add_argument("--json", action="store_true", help="with --once: one JSON document")
        plain.add_argument("--width", type=int, default=120, metavar="N", help="columns of --once (120)")
        plain.add_argument("--height", type=int, default=36, metavar="N", help="lines of --once (36)")
        plain.add_argument("--interval", type=float, default=10.0, metavar="S", help="seconds between lines (10)")
        net = parser.add_argument_group("listening for OTLP/HTTP")
        net.add_argument("--listen", metavar="HOST:PORT", help="receive traces, for example on 127.0.0.1:4318")
        net.add_argument(
            "--token",
            metavar="TOKEN",
            help=f"token clients must send, or in the URL of --web; @FILE reads one; or {_TOKEN_VARIABLE}",
        )
        net.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM)")
        net.add_argument("--tls-key", type=Path, metavar="FILE", help="its key (PEM)")
        web = parser.add_argument_group("in a browser")
        web.add_argument(
            "--web", nargs="?", const="127.0.0.1:8000", metavar="HOST:PORT", help="serve it (127.0.0.1:8000)"
        )

    def run(self, args: argparse.Namespace) -> int:
        """Run the viewer, and return the exit code."""
        _check(args)
        if args.web is not None:
            from esper_sink_tui.web import serve  # noqa: PLC0415  # heavy, and only for this

            return serve(args, _token(args.token))
        if args.listen is not None:
            return _listen(args)
        return _attach(args)


def _check(args: argparse.Namespace) -> None:
    """Raise UsageError for options that exclude each other."""
    if args.json and not args.once:
        raise UsageError("--json goes with --once", hint="esper sanctum RUN --once --json")
    if args.once and len(args.runs) > 1:
        raise UsageError("--once shows one run", hint="call it once for each run")
    if args.listen is not None and (args.once or args.web is not None or args.runs):
        raise UsageError("--listen goes with neither RUN, --once nor --web")
    if args.web is not None and args.once:
        raise UsageError("--web and --once do not go together")
    if (args.tls_cert is None) != (args.tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together")
    if args.listen is None and args.tls_cert:
        raise UsageError("--tls-cert goes with --listen")
    if args.listen is None and args.web is None and args.token:
        raise UsageError("--token goes with --listen and --web")
    if not args.interval > 0 or args.width < 1 or args.height < 1:
        raise UsageError(
            "--interval, --width and --height must be above 0", hint="left out they are 10 s, 120 columns and 36 lines"
        )
    if max(args.width, args.height) > _MOST_CELLS:
        raise UsageError(
            f"--once draws {args.width} columns and {args.height} lines in no useful time",
            hint=f"--width and --height are at most {_MOST_CELLS}",
        )


def _attach(args: argparse.Namespace) -> int:
    """View runs on disk."""
    from esper_core.reading import run_faults  # noqa: PLC0415  # not for --help
    from esper_core.runs import find_run  # noqa: PLC0415  # as above
    from esper_sink_tui.watch import Watch  # noqa: PLC0415  # as above

    base = Path(args.dir)
    greeting = ""
    if args.runs:
        runs = [find_run(spec, base) for spec in args.runs]
    else:
        run, greeting = _newest(base)
        runs = [run]
    watch = Watch(None if args.once else runs[0].path.parent)
    for place, run in enumerate(runs):
        watch.add_run(run, select=place == 0, marked=len(runs) > 1)
    if args.once:
        from esper_sink_tui.plain import print_once  # noqa: PLC0415  # as above

        if greeting:
            print(one_line(greeting), file=sys.stderr)
        for fault in run_faults(runs[0]):
            print(one_line(f"esper: {fault}"), file=sys.stderr)
        return print_once(watch, as_json=args.json, width=args.width, height=args.height, ascii_only=_ascii(args))
    return _show(watch, args, greeting=greeting, back=f"esper sanctum {runs[0].path}")


def _newest(base: Path) -> tuple[RunDir, str]:
    """The newest live run, else the newest run; and a line that states the choice."""
    from esper_core.health import RunState  # noqa: PLC0415  # not for --help
    from esper_core.runs import find_run, list_runs, read_state  # noqa: PLC0415  # as above

    for run in list_runs(base):
        if read_state(run)[1] in {RunState.LIVE, RunState.STALLED}:
            return find_run(str(run.path), base), f"showing {run.path.name}, the newest live run"
    run = find_run("latest", base)
    return run, f"showing {run.path.name}, the newest run; none is live"


def _listen(args: argparse.Namespace) -> int:
    """View runs received over OTLP/HTTP."""
    from esper_sink_tui.addresses import is_loopback, parse_address  # noqa: PLC0415  # not for --help
    from esper_sink_tui.watch import Watch  # noqa: PLC0415  # as above

    try:
        from esper_sink_tui.listen import Receiver  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as error:
        raise UsageError(f"--listen needs {error.name}", hint="pip install 'esper-sink-tui[listen]'") from error

    host, port = parse_address(args.listen)
    token = _token(args.token)
    tls = (args.tls_cert, args.tls_key) if args.tls_cert is not None else None
    watch = Watch()
    with Receiver(
        lambda events: watch.receive(events, where="OTLP"),
        reject=watch.reject,
        measure=watch.measured,
        host=host,
        port=port,
        token=token,
        tls=tls,
    ) as receiver:
        guarded = "" if is_loopback(host) else f" ({'token' if token else 'TLS'} required)" if token or tls else ""
        listening = f"listening on {receiver.url}/v1/traces{guarded}"
        watch.waiting_for = f"{listening}: no run yet"
        print(listening, file=sys.stderr, flush=True)
        return _show(watch, args, greeting="", back="")


def _token(given: str | None) -> str:
    """The token from the flag, from the file that it names, or from the environment variable.

    An empty token raises UsageError; it must not disable the check.
    """
    text = os.environ.get(_TOKEN_VARIABLE) if given is None else given
    if text is None:
        return ""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UsageError(f"cannot read the token from {text[1:]}: {error.strerror}") from error
    if not text:
        raise UsageError("the token is empty", hint=f"give --token TOKEN, --token @FILE or {_TOKEN_VARIABLE}")
    return text


def _ascii(args: argparse.Namespace) -> bool:
    from esper_sink_tui.terminal import wants_ascii  # noqa: PLC0415  # not for --help

    return bool(args.ascii) or wants_ascii()


def _show(watch: Watch, args: argparse.Namespace, *, greeting: str, back: str) -> int:
    """Show the screen; without a terminal, print lines."""
    from esper_sink_tui.foreground import open_screen, stop_run  # noqa: PLC0415  # not for --help
    from esper_sink_tui.terminal import has_terminal  # noqa: PLC0415  # as above

    if not has_terminal():
        from esper_sink_tui.plain import follow_lines  # noqa: PLC0415  # as above

        if greeting:
            print(one_line(greeting), file=sys.stderr)
        forever = (lambda: False) if args.listen is not None else None
        return follow_lines(watch, interval_s=args.interval, ascii_only=_ascii(args), ended=forever)
    served = bool(os.environ.get("TEXTUAL_DRIVER"))
    left = open_screen(
        watch,
        ascii_only=_ascii(args) and not served,
        bell=args.bell,
        theme=args.theme,
        # A browser page must not be able to stop a training.
        request_stop=None if served else lambda run_id: stop_run(watch, run_id),
        greeting=greeting,
    )
    if back and not served:
        print(one_line(parting(watch.model().life, back)), file=sys.stderr)
    return EXIT_OK if left else EXIT_FAILED


def parting(life: Life, back: str) -> str:
    """What is said when the screen has closed: whether the training goes on, and the command to come back."""
    if life.gone:
        return "the folder of the run on show is gone"
    going = f"training goes on (pid {life.pid}); " if life.pid and not life.state.ended else ""
    return f"{going}come back with: {back}"


command = SanctumCommand()

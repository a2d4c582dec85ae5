"""``esper COMMAND``: finds the command, imports only that one, and turns errors into messages and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from esper_core import forks
from esper_core.cli._command import CORE_COMMANDS, load_core
from esper_core.cli._output import note, note_text, own_streams, say, say_text, stream_error, take_back_streams
from esper_core.errors import EXIT_FAILED, EXIT_OK, EXIT_SIGNAL, EsperError, UsageError, error_text, nearest
from esper_core.host.process.ending import end_in_time
from esper_core.host.process.started import recorded
from esper_core.masking import learn_arguments, learn_environment
from esper_core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from traceback import FrameSummary

    from esper_core.cli._command import Command

__all__ = ["main"]

_SIGINT = 2
_OWN = Path(__file__).parents[1]
_EXHAUSTED: Final = {
    errno.EMFILE: "this process has as many files open as it may: what leaks them? `ulimit -n` shows the limit",
    errno.ENFILE: "this machine has as many files open as it may; end what holds them",
    errno.ENOSPC: "make room on this file system, then try again",
    errno.EDQUOT: "this user's share of the file system is full; make room, then try again",
}
"""What to do when a file cannot be opened for a reason that lies not in the file; by error number."""
_SIGPIPE = 13
_USAGE = "usage: esper [--version] [--debug] COMMAND ..."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after ``esper``; None takes those of the process. This is then the process's last act: what
            sinks left behind does not hold it (:mod:`esper_core.host.process.ending`).

    Returns:
        The exit code: 0 done, 1 failed, 5 telemetry lost under ``--strict-telemetry``, 64 wrong use or configuration,
        128 + signal when stopped by one.
    """
    if argv is not None:
        return _main(argv)
    with recorded():
        code = _main(sys.argv[1:])
    end_in_time(code)
    return code


def _main(argv: Sequence[str]) -> int:
    arguments = list(argv)
    debug = os.environ.get("ESPER_DEBUG", "") not in {"", "0"}
    if "--debug" in arguments:
        # Accepted anywhere, but not after "--": those arguments belong to another program.
        end = arguments.index("--") if "--" in arguments else len(arguments)
        debug = debug or "--debug" in arguments[:end]
        arguments = [word for index, word in enumerate(arguments) if word != "--debug" or index > end]
    learn_environment(os.environ)
    learn_arguments(arguments)
    hook, threading.excepthook = threading.excepthook, _print_thread_error
    try:
        with own_streams():
            return _guarded(arguments, debug=debug)
    finally:
        threading.excepthook = hook


def _guarded(arguments: Sequence[str], *, debug: bool) -> int:
    """Run the command; turn whatever it raises into a message and an exit code."""
    try:
        with forks.Place("the command"):
            code = _dispatch(arguments)
        take_back_streams()
        sys.stdout.flush()
    except KeyboardInterrupt:
        # From here a second Ctrl-C ends the process; Python's own handler would raise an exception during the clean-up.
        if threading.current_thread() is threading.main_thread():  # signal handlers can be set only in the main thread
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        return EXIT_SIGNAL + _SIGINT
    except BaseException as error:  # noqa: BLE001  # outermost; an environment may raise CancelledError or exit()
        take_back_streams()
        lost = stream_error(sys.stdout)
        if lost is not None and lost is error:
            return _say_unwritten(lost)
        if debug:
            note_text(_traceback(error))
        if isinstance(error, EsperError):
            note(*error_lines(error))
            return error.exit_code
        note(*_unforeseen(error))
        return EXIT_FAILED
    return code


def _say_unwritten(lost: OSError) -> int:
    """End a command whose output nobody takes. Without a reader (`esper replay RUN | head`) no message is needed."""
    if isinstance(lost, BrokenPipeError):
        return EXIT_SIGNAL + _SIGPIPE
    note(f"esper: cannot write the output: {lost.strerror or lost}")
    return EXIT_FAILED


def error_lines(error: EsperError) -> list[str]:
    """An error as its lines: what is wrong and where, and below it what to do next."""
    return [f"esper: {error.message}", *([f"  {error.hint}"] if error.hint is not None else [])]


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)).rstrip("\n")


def _print_thread_error(error: threading.ExceptHookArgs) -> None:
    """As Python prints what ends a thread, a sink's own for example, without secrets."""
    if error.exc_value is None or isinstance(error.exc_value, SystemExit) or sys.stderr is None:
        return
    name = error.thread.name if error.thread is not None else "?"
    note_text(f"Exception in thread {name}:\n{_traceback(error.exc_value)}")


def _unforeseen(error: BaseException) -> tuple[str, ...]:
    """Format an error that is no EsperError: a line for the error, one for its place when that is in others' code."""
    import sysconfig
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    ours = next((number for number, frame in enumerate(frames) if frame.filename.startswith(str(_OWN))), len(frames))
    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")} | {str(_OWN), "<"})
    theirs = [frame for frame in frames[ours:] if not frame.filename.startswith(libraries)]
    notes = [f"  {text}" for text in getattr(error, "__notes__", ())]
    if not theirs and (place := _in_installed_environment(error, frames)):
        return (f"esper: {_said(error)}", f"  in {place}; --debug shows the way there", *notes)
    if not theirs or "esper_sink_" in theirs[-1].filename:
        return _of_the_system(error) or (
            f"esper: {_said(error)}",
            "  an unexpected error; --debug shows where it comes from",
        )
    place = f"{theirs[-1].filename}, line {theirs[-1].lineno}, {theirs[-1].name}()"
    return (f"esper: {_said(error)}", f"  in {place}; --debug shows the way there", *notes)


def _in_installed_environment(error: BaseException, frames: Sequence[FrameSummary]) -> str:
    """The place of an error in an environment that pip installed, Gymnasium's own for example; else empty."""
    ours = [frame.filename for frame in frames if frame.filename.startswith(str(_OWN))]
    if not ours or not ours[-1].startswith(str(_OWN / "envs")):
        return ""
    from esper_core.envs.faults import place_in_environment

    return place_in_environment(error)


def _of_the_system(error: BaseException) -> tuple[str, str] | None:
    """The lines of an error that the machine makes, not the program: a file that refuses, memory that is not there."""
    said = _said(error)
    if isinstance(error, OSError) and error.filename is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
        hint = _EXHAUSTED.get(error.errno or 0, "it must be there, of the right kind, and permitted to this user")
        return (f"esper: {name}: {error.strerror or error}", f"  {hint}")
    if isinstance(error, FileNotFoundError) and _homeless():
        return "esper: the folder that this shell is in was deleted", "  cd to another, then try again"
    if isinstance(error, MemoryError) or "can't allocate memory" in said or "out of memory" in said:
        keys = "ppo.hidden, ppo.minibatch_size, ppo.rollout_steps or env.n_envs"
        return f"esper: out of memory: {said}", f"  lower {keys}, or end what else takes memory"
    return None


def _homeless() -> bool:
    """Whether the current folder was deleted."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _said(error: BaseException) -> str:
    return f"exit({error.code!r}) was called" if isinstance(error, SystemExit) else error_text(error)


def _dispatch(argv: Sequence[str]) -> int:
    if not argv or argv[0] in {"-h", "--help", "help"}:
        if len(argv) > 1 and argv[0] == "help":
            return _dispatch([argv[1], "--help"])
        say_text(_overview())
        return EXIT_OK
    if argv[0] in {"-V", "--version"}:
        say(f"esper {__version__}")
        return EXIT_OK
    if argv[0].startswith("-"):
        guess = nearest(argv[0], ("--version", "--debug", "--help"))
        raise UsageError(f"unknown option {argv[0]}{guess}", hint=f"{_USAGE}; see: esper --help")
    return _run(argv[0], argv[1:])


def _run(name: str, rest: Sequence[str]) -> int:
    from esper_core.cli._parser import EsperParser

    command = _find(name)
    parser = EsperParser(prog=f"esper {name}", description=_sentence(command.help))
    command.add_arguments(parser)
    try:
        args = parser.parse_strict(rest)
    except SystemExit as done:  # argparse printed --help
        return int(done.code or 0)
    args.words = [name, *rest]
    return command.run(args)


def _find(name: str) -> Command:
    if name in CORE_COMMANDS:
        return load_core(name)
    from esper_core.host.load.discovery import installed_commands, load_command
    from esper_core.installed import command_extras

    installed = installed_commands()
    if name in installed or name in command_extras():
        return cast("Command", load_command(name))
    known = [*CORE_COMMANDS, *installed]
    raise UsageError(f'unknown command "{name}"{nearest(name, known)}', hint="see: esper --help")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _overview() -> str:
    from esper_core.host.load.discovery import installed_commands

    lines = [_USAGE, "", "Trains a multi-head PPO agent and tells, in every update, how far its policy moved.", ""]
    lines.append("commands:")
    lines += [f"  {name:<9} {entry.help}" for name, entry in CORE_COMMANDS.items()]
    for name, found in sorted(installed_commands().items()):
        lines.append(f"  {name:<9} {found.summary or 'of a plugin'} ({found.distribution})")
    lines += [
        "",
        "options:",
        "  --version  print the version",
        "  --debug    show tracebacks (or ESPER_DEBUG=1)",
        "",
        "Start with: esper ppo --episodes 20",
        "Each command explains itself: esper COMMAND --help",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""``esper ppo`` when a sink owns the terminal: training runs in a child process, the sink in this process."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from esper_core.cli._command import commands_after_run
from esper_core.cli._output import note, note_text
from esper_core.cli._words import program, shown_path
from esper_core.errors import EXIT_OK
from esper_core.health import RunState
from esper_core.host.load.options import create_sink
from esper_core.host.load.selection import foreground_sink
from esper_core.host.process.child import ChildFailedError, start_child
from esper_core.reading.life import exit_sentence
from esper_core.runs import RunDir, read_state

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from esper_core.config.layers import Resolved
    from esper_core.host.load.selection import Selection

__all__ = ["train_behind"]


def train_behind(resolved: Resolved, selection: Selection, argv: Sequence[str]) -> int:
    """Start the training as a child process and run the foreground sink until the user leaves its screen.

    Args:
        resolved: the configuration; the child resolves its own from the same arguments, files and environment.
        selection: the sinks; exactly one of them owns the terminal.
        argv: the arguments after ``esper``; they reach the child through a pipe.

    Returns:
        The child's exit code; 0 when the user left the screen while the training continues.
    """
    screen = foreground_sink(selection.sinks)
    assert screen is not None  # the caller asked  # noqa: S101
    sink = create_sink(screen, resolved.config.sink.get(screen.name), origins=resolved.origins)
    note(f"esper: starting the training; {screen.name} shows its run once it has begun")
    child = start_child(argv)
    try:
        left = sink.esper_foreground(child)
        run_dir = child.run_dir  # who left the screen early has not seen whether the run began
    except ChildFailedError as error:
        note_text(f"esper: {error}")  # what the child printed, of as many lines
        return error.exit_code
    except BaseException:
        if not child.begun:  # a training that has begun goes on
            child.request_stop()
        raise
    code = child.poll() if left else child.wait()
    run = shlex.quote(shown_path(run_dir))
    look = next((f"{program()} {name} {run}" for name in commands_after_run()), run)
    if code is not None:
        note(f"{_how_it_ended(run_dir, code)}: {look}")
        return code
    child.detach()
    note(f"training goes on (pid {child.pid}): {look}")
    return EXIT_OK


def _how_it_ended(run_dir: Path, code: int) -> str:
    """As the run told it, if it did: one that a signal stopped in order has the exit code of one that it killed."""
    state = read_state(RunDir(run_dir))[1]
    if state.ended and state is not RunState.CRASHED:
        return f"the training has ended, {state.value}"
    return exit_sentence(code)

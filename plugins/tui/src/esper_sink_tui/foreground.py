"""Runs the viewer on a training child or on any run: opens the screen, or prints lines without a terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from esper_core.errors import EsperError, UsageError, nearest
from esper_core.reading.source import JournalSource
from esper_core.runs import ProcessPresence, RunDir, probe_process, read_record
from esper_sink_tui.plain import follow_lines
from esper_sink_tui.terminal import has_terminal, wants_ascii
from esper_sink_tui.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.hooks import ChildRun
    from esper_sink_tui.app import SanctumApp
    from esper_sink_tui.config import TuiConfig

__all__ = ["open_screen", "show_child", "stop_run"]

_LOOK_S: Final = 0.05


def show_child(child: ChildRun, config: TuiConfig) -> bool | None:
    """Show a child's run; the screen stands before the run does.

    Returns:
        True when the user left the screen, or it broke down; None without a terminal, after the training ended.

    Raises:
        EsperError: the training ended before its run began.
    """
    watch = Watch()
    ascii_only = config.ascii or wants_ascii()
    if not has_terminal():
        _follow(watch, child)
        with contextlib.suppress(KeyboardInterrupt):
            follow_lines(
                watch, interval_s=config.interval_s, ascii_only=ascii_only, ended=lambda: child.poll() is not None
            )
            return None
        return True  # Ctrl-C ended the lines, not the training

    failed: list[EsperError] = []

    def begin(close: Callable[[], None]) -> None:
        try:
            _follow(watch, child)
        except EsperError as error:
            failed.append(error)
            close()

    def request_stop(run_id: str) -> str:
        watched = watch.watched(run_id)
        if watched is None or watched.exit_code is None:
            return stop_run(watch, run_id)
        child.request_stop()
        return "asked the trainer to stop at its next step"

    watch.waiting_for = f"the training starts (pid {child.pid}): its imports take some seconds"
    left = open_screen(
        watch, ascii_only=ascii_only, bell=config.bell, theme=config.theme, request_stop=request_stop, beside=begin
    )
    if failed:
        raise failed[0]
    if not left:
        print("the screen broke down, which is a fault of Sanctum; what is above says where", file=sys.stderr)
    return True


def _follow(watch: Watch, child: ChildRun) -> None:
    """Watch the child's run, once it has begun, and the others of its folder."""
    run = RunDir(child.run_dir)
    watch.add_run(run, select=True).exit_code = child.poll
    watch.base = run.path.parent


def open_screen(
    watch: Watch,
    *,
    ascii_only: bool,
    bell: bool,
    theme: str,
    request_stop: Callable[[str], str] | None = None,
    greeting: str = "",
    beside: Callable[[Callable[[], None]], None] | None = None,
) -> bool:
    """Run the app until the user leaves.

    Args:
        watch: the runs.
        ascii_only: as :class:`~esper_sink_tui.app.SanctumApp` takes it, and so the next four.
        bell: as above.
        theme: as above.
        request_stop: as above.
        greeting: as above.
        beside: runs in a thread of its own meanwhile, and is given what closes the screen.

    Returns:
        False when it broke down, which Textual has told of.

    Raises:
        UsageError: no such theme.
    """
    from esper_sink_tui.app import SanctumApp  # noqa: PLC0415  # loads Textual

    app = SanctumApp(
        watch,
        ascii_only=ascii_only,
        bell=bell,
        theme=theme,
        request_stop=request_stop,
        greeting=greeting,
    )
    if theme not in app.available_themes:
        known = ", ".join(sorted(app.available_themes))
        raise UsageError(f'no theme "{theme}"{nearest(theme, app.available_themes)}', hint=f"themes: {known}")
    watch.tick()  # the first screen then shows the run's end
    # Under nohup SIGHUP is ignored, and a screen whose terminal is gone would wait for input for ever. The trainer is
    # another process and keeps its inherited setting.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if beside is not None:
        threading.Thread(target=beside, args=(lambda: _close(app),), name="sanctum-beside", daemon=True).start()
    app.run()
    return not app.return_code


def _close(app: SanctumApp) -> None:
    """Close the screen, from another thread; one that is just being opened once it stands."""
    while not app.is_running:
        time.sleep(_LOOK_S)
    with contextlib.suppress(RuntimeError):  # the user has closed it
        app.call_from_thread(app.exit)


def stop_run(watch: Watch, run_id: str) -> str:
    """Ask the trainer of a run on disk to stop, when it is verified to be a process of this machine.

    Returns:
        What was done, or why the trainer could not be stopped.
    """
    watched = watch.watched(run_id)
    if watched is None or not isinstance(watched.source, JournalSource):
        return "this run is received over the network: stop it where it runs"
    record = read_record(watched.source.run)
    if record is None or record.state.ended:
        return "this run has ended"
    if probe_process(record) is not ProcessPresence.ALIVE:
        where = f" on {record.host}" if record.host else ""
        return f"cannot see its process (pid {record.pid}{where}) from here: stop it where it runs"
    try:
        os.kill(record.pid, signal.SIGTERM)
    except OSError as error:
        return f"cannot stop pid {record.pid}: {error.strerror}"
    return f"asked pid {record.pid} to stop at its next step"

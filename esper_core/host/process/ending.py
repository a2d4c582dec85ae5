"""Ends the process of ``esper`` when its run has ended, whatever sinks and environments left behind.

After the last line of a command the interpreter waits for every thread that is no daemon, for worker pools, for child
processes and for exit handlers: some client libraries hold it for minutes, or for ever. They get what closing left of
``run.close_timeout_s``, at least one second; then one line names them, and the process ends with the same exit code.
What holds it after that, while Python takes its modules apart (a ``__del__``, a library's destructor), is ended on
Linux by :mod:`esper_core.host.process.last_resort`.
A program that calls Esper from Python ends as it does without Esper.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, NoReturn

from esper_core import forks
from esper_core.host.process.last_resort import LastResort
from esper_core.host.process.started import described, forkers, handler_now

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.process import BaseProcess

__all__ = ["closing_ends", "end_in_time", "holders", "sinks_load"]

LEAST_S: Final = 1.0
"""Seconds that the interpreter gets at least: exit handlers of libraries take tenths of one on a busy machine."""
_AFTER_PYTHON_S: Final = 5.0
"""Seconds after the deadline for Python's own end, which takes a good part of one on a busy machine."""
_WRITING_S: Final = 5.0
"""Seconds that the last line gets on a busy machine."""
_MOST_NAMES: Final = 3
_REMEDY: Final = (
    "not waited for any longer (a sink stops what it started in esper_sink_closed; "
    "run.close_timeout_s is the time for all)"
)
_TAKEN_APART: Final = (
    "the run has ended, and this process was held while Python takes itself apart, by a __del__ or a library's own "
    f"end: {_REMEDY}; where Python stands:"
)

_budget_s: float | None = None
_deadline: float | None = None


def sinks_load(close_timeout_s: float) -> None:
    """Sinks are loaded from now on: this process may be held by what they leave."""
    global _budget_s  # noqa: PLW0603  # a process ends once
    _budget_s = close_timeout_s


def closing_ends(deadline: float) -> None:
    """A session closes, and will have done so at this time (``time.monotonic``)."""
    global _deadline  # noqa: PLW0603  # as above
    _deadline = deadline


def end_in_time(code: int) -> None:
    """See to it that this process ends. Call it last, in the main thread; the interpreter's own end follows.

    Without sinks it does nothing.

    Args:
        code: the exit code.
    """
    if _budget_s is None:
        return
    if copies := _copies():
        forks.write_error(f"{copies}\n")
    begun = time.monotonic()
    deadline = max(_deadline if _deadline is not None else begun + _budget_s, begun + LEAST_S)
    if threading.current_thread() is threading.main_thread():
        with contextlib.suppress(ValueError):
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in this wait ends the process at once
    last = LastResort(code, _TAKEN_APART, deadline - begun + _AFTER_PYTHON_S)
    threading.Thread(target=_watch, args=(code, deadline, last), name="esper-end", daemon=True).start()


def _watch(code: int, deadline: float, last: LastResort) -> None:
    """Wait; a process that ends before the deadline ends this thread with it."""
    time.sleep(max(0.0, deadline - time.monotonic()))
    last.postpone(_WRITING_S)
    _end(code, _line(holders()))


def _end(code: int, line: str) -> NoReturn:
    try:
        forks.flush_streams()
        forks.write_error(line)
        # Last: the main thread may go on to end the process once a child that it waits for has ended.
        for child in _children():
            with contextlib.suppress(Exception):
                child.terminate()
    finally:
        os._exit(code)


def _line(held_by: Sequence[str]) -> str:
    what = "; ".join(held_by) or "something that Python waits for"
    return f"esper: the run has ended, and this process was held by {what}: {_REMEDY}\n"


def holders() -> list[str]:
    """What the interpreter waits for now, in words, by owner: threads, child processes, an exit handler."""
    found: dict[tuple[str, str], list[str]] = {}
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread() and thread.is_alive():
            found.setdefault(("thread", described(thread)), []).append(f'"{thread.name}"')
    for child in _children():
        if not child.daemon:
            name = f'"{child.name}" (pid {child.pid})'
            found.setdefault(("child process", described(child)), []).append(name)
    lines = [_counted(kind, names) + owner for (kind, owner), names in found.items()]
    handler = handler_now()
    if handler is not None:
        lines.append(f"exit handler {handler.name}(){described(handler)}")
    elif not lines:
        lines += _main_thread()
    return lines


def _counted(kind: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{kind} {names[0]}"
    shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    return f"{len(names)} {kind.replace('process', 'processe')}s {shown}"


def _main_thread() -> list[str]:
    """What the main thread does: it waits for a pool's thread, which may be a daemon, or runs an unknown handler."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001  # documented, for debuggers
    where = f", in {frame.f_code.co_filename}, line {frame.f_lineno}" if frame is not None else ""
    while frame is not None:
        waited = frame.f_locals.get("self")
        if isinstance(waited, threading.Thread) and waited is not threading.main_thread():
            return [f'thread "{waited.name}"{described(waited)}']
        frame = frame.f_back
    return [f"an exit handler{where}"]


def _copies() -> str:
    """A line for the processes that were forked from this one and live on; they hold what it had open, pipes too."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (ChildProcessError, AttributeError):  # no child at all; a platform without it
        return ""
    import psutil  # noqa: PLC0415  # only where there are children

    known = {child.pid for child in _children()}
    pids = []
    with contextlib.suppress(psutil.Error):
        own = psutil.Process()
        for child in own.children():
            with contextlib.suppress(psutil.Error):
                lives = child.pid not in known and child.status() != psutil.STATUS_ZOMBIE
                if lives and child.cmdline() == own.cmdline():  # another program, a server for example, lives by intent
                    pids.append(child.pid)
    if not pids:
        return ""
    several = len(pids) > 1
    named = ", ".join(map(str, pids[:_MOST_NAMES])) + (", ..." if len(pids) > _MOST_NAMES else "")
    return (
        f"esper: process{'es' if several else ''} {named}, {'forks' if several else 'a fork'}"
        f"{' or'.join(forkers()) or ' of this one'}, "
        f"{'go' if several else 'goes'} on after the run, with this one's open files and pipes "
        "(a sink ends what it started in esper_sink_closed)"
    )


def _children() -> list[BaseProcess]:
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None:
        return []
    with contextlib.suppress(Exception):
        return list(multiprocessing.active_children())
    return []

"""What holds in a forked child: it is no trainer. The one place that registers handlers for forks.

A child begins with a copy of everything the trainer has: signal handlers, locks (perhaps held by a thread that does
not exist in the child), queues, open files. Whatever must not work there registers a function with :func:`in_child`.
A child may also come back: code of an environment or a sink that forks and returns leaves a second process in the
middle of the trainer. :class:`Place` ends such a process where it comes back, and counts it for the trainer.

Only forks that Python makes (``os.fork``, ``multiprocessing``) are seen; a child that starts another program
(``subprocess``) needs none of this.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final, NoReturn

from esper_core.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CAME_BACK", "Place", "flush_streams", "hold_in_forks", "in_child", "in_parent", "process", "write_error"]

CAME_BACK: Final = "a process that it forked came back as a copy of the trainer and was ended; leave one by os._exit()"
"""What is said of code whose forked child came back."""
_MOST_PLACES: Final = 256
_MOST_COUNTED: Final = 255
_FLUSH_S: Final = 1.0

_process: int = os.getpid()
_callbacks: list[Callable[[], None]] = []
_parents: list[Callable[[], None]] = []
_held: list[frozenset[signal.Signals]] = []
_forking = threading.local()
_slots: dict[str, int] = {}
_page: mmap.mmap | None = None
"""A byte for each place, shared by a process and its children; made before its first fork."""
_page_of: int = 0
"""The process that made the page."""


def process() -> int:
    """This process's id, as ``os.getpid`` gives it, without a system call."""
    return _process


def in_child(callback: Callable[[], None]) -> Callable[[], None]:
    """Call a function in every child that is forked from now on, before the child's own code.

    Args:
        callback: undoes or replaces what must not work in the child. It runs in the thread that forked, the only one
            of the child. It must take no lock of the parent's: a thread that is gone may hold it. Exceptions are
            dropped. It is kept until it is taken back.

    Returns:
        A function that takes it back; a second call does nothing.
    """
    return _kept(_callbacks, callback)


def in_parent(callback: Callable[[], None]) -> Callable[[], None]:
    """Call a function here after every fork from now on, in the thread that forked. Exceptions are dropped.

    Returns:
        A function that takes it back; a second call does nothing.
    """
    return _kept(_parents, callback)


def _kept(callbacks: list[Callable[[], None]], callback: Callable[[], None]) -> Callable[[], None]:
    callbacks.append(callback)

    def take_back() -> None:
        with contextlib.suppress(ValueError):
            callbacks.remove(callback)

    return take_back


def hold_in_forks(signals: Iterable[signal.Signals]) -> Callable[[], None]:
    """Keep these signals back while a process is forked, until the child's callbacks have run.

    Python drops a signal that comes to a child before its own clean-up after the fork; kept back, it waits.

    Returns:
        A function that takes it back.
    """
    held = frozenset(signals)
    _held.append(held)

    def take_back() -> None:
        with contextlib.suppress(ValueError):
            _held.remove(held)

    return take_back


class Place:
    """Code that is not ours and may fork: an environment, a sink. Ends a child that comes back out of it.

    Put the call in a with block; where that costs too much, compare :func:`process` before and after, and call
    :meth:`end` when it differs. A child that uses our objects on purpose (an evaluation in a worker) does not come back
    from anywhere.

    Args:
        who: whose code it is, in words; places of the same words share a count.
    """

    __slots__ = ("_before", "_slot", "who")

    def __init__(self, who: str) -> None:
        self.who = who
        self._slot = _slots.setdefault(who, len(_slots) % _MOST_PLACES)
        self._before = _process

    def __enter__(self) -> None:
        self._before = _process

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if os.getpid() != self._before:
            self.end(error)

    @property
    def came_back(self) -> int:
        """Children that came back so far; at most 255 are counted."""
        return _page[self._slot] if _page is not None and _page_of == _process else 0

    def end(self, error: BaseException | None = None) -> NoReturn:
        """End this process, a child that came back by returning or by an exception. No exit handler runs.

        A child that calls ``sys.exit`` means to end: it does, with its code, and is not counted.
        """
        try:
            if isinstance(error, SystemExit):
                os._exit(_exit_code(error))
            if isinstance(error, KeyboardInterrupt):
                os._exit(128 + signal.SIGINT)
            if error is None and _page is not None:
                _page[self._slot] = min(_MOST_COUNTED, _page[self._slot] + 1)
            if error is not None:
                import traceback  # noqa: PLC0415  # only for this message

                words = f"esper: process {os.getpid()}, forked by {self.who}, ended with an error:\n"
                write_error(words + "".join(traceback.format_exception_only(error)))
        finally:
            os._exit(1)


def flush_streams(timeout_s: float = _FLUSH_S) -> None:
    """Flush stdout and stderr, for at most this time: a reader may have stopped reading, or a lock may be held."""

    def flush() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()

    with contextlib.suppress(RuntimeError):  # no thread can be started any more
        thread = threading.Thread(target=flush, daemon=True)
        thread.start()
        thread.join(timeout_s)


def _exit_code(error: SystemExit) -> int:
    flush_streams()
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    write_error(f"{error.code}\n")
    return 1


def write_error(text: str) -> None:
    """Write to stderr's descriptor: the stream's own lock may be held. Control characters are shown as escapes."""
    with contextlib.suppress(OSError):
        os.write(2, printable(text).encode(errors="backslashreplace"))


def _before_fork() -> None:
    global _page, _page_of
    if _page_of != _process and _slots:
        with contextlib.suppress(OSError, ValueError):
            _page, _page_of = mmap.mmap(-1, _MOST_PLACES), _process

    if _held:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, frozenset().union(*_held))


def _after_fork() -> None:
    mask = getattr(_forking, "mask", None)
    if mask is not None:
        _forking.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_in_parent() -> None:
    _after_fork()
    for callback in (*_parents,):
        with contextlib.suppress(Exception):
            callback()


def _after_in_child() -> None:
    global _process  # noqa: PLW0603  # as above
    _process = os.getpid()
    for callback in (*_callbacks,):  # a callback may take itself back
        with contextlib.suppress(Exception):
            callback()
    _after_fork()


# Handlers run in the order of registration: threading's, imported above, comes before this one.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)

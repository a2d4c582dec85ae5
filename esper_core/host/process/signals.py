"""Signal handlers: they set a flag that the training loop reads. A second Ctrl-C ends the process at once.

A forked child (an environment's worker) has the handlers from before: SIGTERM ends it. Only Ctrl-C, which a terminal
sends to the trainer and all its children at once, is left to the trainer the first time: a worker that ended at once
would end the run with an error where it should stop in order.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from esper_core import forks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["STOP_SIGNALS", "StopFlag", "install_signals"]

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
"""Signals that may end a child at once. SIGINT is not kept back: an exception in a fork's handler would be lost."""
_SAME_CTRL_C_S: Final = 1.0
"""Seconds within which the trainer's handler runs after the same Ctrl-C; it is late while one operation takes long."""
_SHOW_CURSOR: Final = b"\x1b[?25h\x1b[0m\r\n"


class StopFlag:
    """Whether the run was asked to end. Call it, or read ``requested``.

    Attributes:
        requested: True from the first signal on.
        signal: the number of the first signal, or None.
        insisted: True from a second Ctrl-C on, which raises KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal: int | None = None
        self.insisted = False

    def __call__(self) -> bool:
        """True when the loop should end at the next step."""
        return self.requested

    def request(self, signum: int | None = None) -> None:
        """Ask the run to end; the signal of the first call is kept."""
        if not self.requested:
            self.signal = signum
            self.requested = True

    @property
    def name(self) -> str:
        """The signal's name, or an empty string."""
        return "" if self.signal is None else signal.Signals(self.signal).name


@contextlib.contextmanager
def install_signals(flag: StopFlag, *, exit_on_second: bool = True) -> Iterator[None]:
    """Make SIGINT, SIGTERM and SIGHUP set the flag; restore the old handlers at the end, and in every forked child.

    A signal that is ignored stays ignored (``nohup``, a shell's background job). Outside the main thread nothing is
    installed: Python allows it only there.

    Args:
        flag: set by the first signal.
        exit_on_second: a second SIGINT restores the terminal and exits with 130 at once; False raises KeyboardInterrupt
            instead, for a program of the user's that Esper must not end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = _Handlers(flag, exit_on_second=exit_on_second)
    taken_back = forks.in_child(handlers.leave), forks.hold_in_forks(_ENDING)
    handlers.install()
    try:
        yield
    finally:
        for take_back in taken_back:
            take_back()
        handlers.restore()


class _Handlers:
    """The handlers of one session, and those from before it. Arguments are those of :func:`install_signals`."""

    def __init__(self, flag: StopFlag, *, exit_on_second: bool) -> None:
        self._flag = flag
        self._exit_on_second = exit_on_second
        self._terminal = _terminal_state()
        self._interrupts = 0
        self._process = os.getpid()
        self._interrupted = _SharedFlag()
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        for signum in STOP_SIGNALS:
            old = signal.getsignal(signum)
            # None: a handler that was not installed from Python, so Python cannot restore it.
            if old is signal.SIG_IGN or old is None:
                continue
            self._before[signum] = old
            signal.signal(signum, self.handle)

    def restore(self) -> None:
        for signum, old in self._before.items():
            signal.signal(signum, old)

    def handle(self, signum: int, _frame: object) -> None:
        if os.getpid() != self._process:  # it came to a forked child before the old handlers were back
            self.leave()
            signal.raise_signal(signum)
            return
        if signum == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1:
                self._second_interrupt()
            self._interrupted.set()
        self._flag.request(signum)

    def _second_interrupt(self) -> None:
        if not self._exit_on_second:
            self._flag.insisted = True
            raise KeyboardInterrupt
        _restore_terminal(self._terminal)
        os._exit(128 + signal.SIGINT)

    def leave(self) -> None:
        """In a forked child, put the old handlers back, where nobody else has set one since."""
        for signum, old in self._before.items():
            if signal.getsignal(signum) == self.handle:
                signal.signal(signum, _after_the_trainer(old, self._interrupted) if signum == signal.SIGINT else old)
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)  # an event loop's: the child's signals would wake the parent's loop


class _SharedFlag:
    """A flag that the trainer sets and its forked children read."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def __bool__(self) -> bool:
        return bool(self._byte[0])


def _after_the_trainer(old: Any, stopping: _SharedFlag) -> Callable[[int, object], None]:
    """The handler of SIGINT in a forked child: the trainer's Ctrl-C is passed over once, any other does as before."""

    def interrupt(signum: int, _frame: object) -> None:
        signal.signal(signum, old)
        until = time.monotonic() + _SAME_CTRL_C_S
        while not stopping and time.monotonic() < until:
            time.sleep(0.01)
        if not stopping:
            signal.raise_signal(signum)

    return interrupt


def _terminal_state() -> tuple[int, list[Any]] | None:
    try:
        import termios  # noqa: PLC0415  # not on every platform

        fd = sys.stdin.fileno()
        return fd, termios.tcgetattr(fd)
    except (ImportError, OSError, ValueError, AttributeError):
        return None
    except Exception:  # noqa: BLE001  # termios.error is no OSError; no terminal, nothing to restore
        return None


def _restore_terminal(state: tuple[int, list[Any]] | None) -> None:
    with contextlib.suppress(Exception):
        if state is not None:
            import termios  # noqa: PLC0415  # not on every platform

            termios.tcsetattr(state[0], termios.TCSANOW, state[1])
        if os.isatty(1):
            os.write(1, _SHOW_CURSOR)

"""Signal handlers: they set a flag that the training loop reads. A second Ctrl-C ends the process at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["STOP_SIGNALS", "StopFlag", "install_signals"]

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR: Final = b"\x1b[?25h\x1b[0m\r\n"


class StopFlag:
    """Whether the run was asked to end. Call it, or read ``requested``.

    Attributes:
        requested: True from the first signal on.
        signal: the number of the first signal, or None.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal: int | None = None

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
    """Make SIGINT, SIGTERM and SIGHUP set the flag; restore the old handlers at the end.

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
    terminal = _terminal_state()
    interrupts = 0

    def handle(signum: int, _frame: object) -> None:
        nonlocal interrupts
        if signum == signal.SIGINT:
            interrupts += 1
            if interrupts > 1 and not exit_on_second:
                raise KeyboardInterrupt
            if interrupts > 1:
                _restore_terminal(terminal)
                os._exit(128 + signal.SIGINT)
        flag.request(signum)

    before: dict[signal.Signals, Any] = {}
    for signum in STOP_SIGNALS:
        old = signal.getsignal(signum)
        # None: a handler that was not installed from Python, so Python cannot restore it.
        if old is signal.SIG_IGN or old is None:
            continue
        before[signum] = old
        signal.signal(signum, handle)
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


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

"""The one monitor that this process has open, and its end when the loop forgets it."""

from __future__ import annotations

import atexit
import builtins
import sys
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from esper_core.monitoring.loop import Monitor

__all__ = ["close_at_exit", "forked", "interactive", "open_monitor"]

_open: Final[list[weakref.ref[Monitor]]] = []


def open_monitor() -> Monitor | None:
    """The monitor that this process has open, or None."""
    found = _open[0]() if _open else None
    return found if found is not None and not found.closed else None


def forked() -> bool:
    """Whether this process is a copy of one that has a monitor open: the run is that one's."""
    found = open_monitor()
    return found is not None and not found.belongs_here


def close_at_exit(monitor: Monitor) -> None:
    """Close a monitor that its loop forgets, when the interpreter ends: as failed after an uncaught exception."""
    _open[:] = [weakref.ref(monitor)]
    earlier = _last_error()

    def close() -> None:
        error = _last_error()
        monitor.end(error if error is not earlier and not interactive() else None)

    atexit.register(close)


def interactive() -> bool:
    """Whether this is a notebook or a prompt, where cells are run again and errors do not end the program."""
    return hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__")


def _last_error() -> BaseException | None:
    """The exception that the interpreter reported last: set before ``atexit``, when one ends the program."""
    found = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return found if isinstance(found, BaseException) else None

"""Ends the process from outside Python when its interpreter no longer runs threads: a timer of the C library.

Once the exit handlers are done, Python takes its modules apart, and no thread of its own runs any more. A ``__del__``
that waits there holds the process, as does a destructor of a C or C++ library after it. A timer of POSIX calls a C
function instead, here ``_exit`` with the run's exit code: it needs neither Python nor its lock. Before it, ``warnx``
writes a line and :mod:`faulthandler` the place where Python stands, if it still stands anywhere.

Linux only; elsewhere nothing is armed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import sys
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LastResort"]

_CLOCK_MONOTONIC: Final = 1
_SIGEV_THREAD: Final = 2
_NANO: Final = 1_000_000_000
_WORDS_FIRST_S: Final = 0.3
"""Seconds between the words and the end, in which they are written."""


class _Event(ctypes.Structure):
    """``struct sigevent``, of 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_byte * 32),
    )


class _Time(ctypes.Structure):
    """``struct timespec``."""

    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))

    @classmethod
    def of(cls, seconds: float) -> Self:
        return cls(*divmod(max(1, round(seconds * _NANO)), _NANO))


class _Setting(ctypes.Structure):
    """``struct itimerspec``."""

    _fields_ = (("interval", _Time), ("value", _Time))


class LastResort:
    """The timers of one process that is at its end.

    Args:
        code: the exit code.
        line: written to stderr before, without a line end.
        seconds: from now until the line; the end follows at once.
    """

    def __init__(self, code: int, line: str, seconds: float) -> None:
        self._timers: list[tuple[Callable[..., int], ctypes.c_void_p]] = []
        if not sys.platform.startswith("linux"):
            return
        try:
            library = ctypes.CDLL(None)
            self._arm(library, library["_exit"], code, seconds + _WORDS_FIRST_S)
            name = ctypes.c_void_p.in_dll(library, "program_invocation_short_name")
            name.value = _kept(library, "esper")  # warnx begins its line with it
            self._arm(library, library.warnx, _kept(library, line.replace("%", "%%")), seconds)
            faulthandler.dump_traceback_later(seconds + _WORDS_FIRST_S / 3, file=2)
        except (OSError, AttributeError, ValueError, RuntimeError):
            return  # another C library, or no thread can be started: then Python's own end is the end

    def _arm(self, library: ctypes.CDLL, function: object, argument: int | None, seconds: float) -> None:
        """Let a C function of one argument be called in a thread of the C library's own."""
        address = ctypes.cast(function, ctypes.c_void_p)  # type: ignore[arg-type]  # a function of a library
        event, timer = _Event(value=argument, notify=_SIGEV_THREAD, function=address), ctypes.c_void_p()
        if library.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
            raise OSError("timer_create")
        self._timers.append((library.timer_settime, timer))
        self._set(len(self._timers) - 1, _Time.of(seconds))

    def _set(self, number: int, time: _Time) -> None:
        settime, timer = self._timers[number]
        settime(timer, 0, ctypes.byref(_Setting(_Time(0, 0), time)), None)

    def postpone(self, seconds: float) -> None:
        """Say nothing, and end the process only after this time: somebody else is at it."""
        if not self._timers:
            return
        for number in range(len(self._timers)):
            self._set(number, _Time.of(seconds) if number == 0 else _Time(0, 0))
        faulthandler.cancel_dump_traceback_later()


def _kept(library: ctypes.CDLL, text: str) -> int | None:
    """The address of a C string that outlives Python's objects: it is never freed."""
    library.strdup.restype = ctypes.c_void_p
    address: int | None = library.strdup(text.encode("utf-8", "backslashreplace"))
    return address

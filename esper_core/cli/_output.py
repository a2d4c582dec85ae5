"""The standard streams of a command: closed ones, and an output that takes nothing more."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

__all__ = ["discard_output", "open_streams", "unwritten"]


def open_streams() -> None:
    """Open the null device for each closed standard stream (``>&-``): else an opened file takes its descriptor.

    A stream that code of the user's closed is opened again on its descriptor, so that the run's end can be printed.

    The null device of stdout can only be read: a command whose output is lost fails when it writes, as on a full disk.
    """
    for name, mode in (("stdin", "r"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # until the end
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not None and getattr(stream, "closed", False):
            # A sink or an environment closed it in Python; the descriptor below is open still.
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", errors=stream.errors, closefd=False))
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")


def unwritten(error: BaseException) -> str:
    """Return why stdout takes nothing more when that caused an error; else an empty string.

    An error of writing names no file. Whether it was stdout's is found out by one more byte, since Python drops what it
    could not write. When stdout takes nothing more, the rest of the output is discarded.
    """
    if not isinstance(error, OSError) or error.errno is None or error.filename is not None:
        return ""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except io.UnsupportedOperation:
        return ""  # no real file: a program's own stream
    except OSError as again:
        discard_output()
        return again.strerror or str(again)
    return ""


def discard_output() -> None:
    """Put the null device in the place of stdout, so that the interpreter's own flush at its end does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""The standard streams of a command, and how commands print.

While a command runs, stdout and stderr are streams of its own on the same descriptors. They encode anything (what the
encoding lacks is printed as its ASCII form or its escape), take no harm from a ``close()`` in somebody else's code, and
remember the first error of writing. Text goes through :func:`say`, :func:`say_text` and :func:`note`, which
let no control character of text from outside reach the terminal.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from esper_core.masking import redact
from esper_core.terminal import escaped, one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import ReadableBuffer

__all__ = [
    "Streams",
    "bear_lost_readers",
    "note",
    "note_over",
    "note_text",
    "own_streams",
    "print_to_log",
    "say",
    "say_text",
    "stream_error",
    "take_back_streams",
]

_ERRORS: Final = "esper-escape"
_WORDS: Final = {"±": "+-"}
_running: list[Streams] = []
"""The streams of the command that runs, if one does."""


# --- printing -------------------------------------------------------------------------------------


def say(*lines: str, flush: bool = False) -> None:
    """Print results on stdout: each argument as one line, whatever it holds."""
    for line in lines:
        print(one_line(line))
    if flush:
        sys.stdout.flush()


def say_text(text: str) -> None:
    """Print a text of several lines on stdout: a table or a document whose own values cannot hold a line break."""
    print(printable(text))


def note(*lines: str) -> None:
    """Print messages on stderr, without secrets: each argument as one line. Never raises."""
    if lines:
        note_text("\n".join(one_line(redact(line)) for line in lines))


def note_text(text: str) -> None:
    """Print a text of several lines on stderr, without secrets: for example a traceback. Never raises.

    A message that nobody can read must not end what it is about, whatever somebody put in the place of stderr.
    """
    shown = printable(redact(text))
    for stream in (sys.stderr, sys.__stderr__):
        with contextlib.suppress(Exception):
            print(shown, file=stream, flush=True)
            return


def note_over(text: str) -> None:
    """Print one line on a terminal's stderr over the one that this printed before; an empty text takes it away."""
    print(f"\r\x1b[K{one_line(text)}", end="", file=sys.stderr, flush=True)


# --- the streams ----------------------------------------------------------------------------------


class _Descriptor(io.FileIO):
    """A descriptor that remembers why it took nothing more.

    Attributes:
        error: the first error of writing, or None.
        bears: whether what cannot be written is dropped; else the error is raised.
    """

    error: OSError | None = None
    bears = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, or drop; tried each time, because a disk may have space again."""
        try:
            return self._written(data)
        except OSError as error:
            self.error = self.error or error
        if not self.bears:
            raise self.error
        return memoryview(data).nbytes

    def _written(self, data: ReadableBuffer) -> int:
        """Write as on a descriptor that waits; another program may have made this one non-blocking."""
        while True:
            count: int | None = super().write(data)
            if count is not None:
                return count
            select.select([], [self], [])


class _Stream(io.TextIOWrapper):
    """A standard stream that is closed with the process, not by a library or a sink.

    Attributes:
        in_log: whether it leads to ``trainer.log``: what an environment prints is written there without secrets and
            control characters, as every other line of the file; a line that a progress bar rewrites becomes several.
    """

    in_log = False

    def __init__(self, old: TextIO, name: str) -> None:
        self.descriptor = _Descriptor(old.fileno(), "wb", closefd=False)
        self.descriptor.name = name
        super().__init__(
            io.BufferedWriter(self.descriptor),
            encoding=old.encoding,
            errors=_ERRORS,
            line_buffering=getattr(old, "line_buffering", False),
            write_through=getattr(old, "write_through", False),
        )

    def write(self, text: str, /) -> int:
        """Write a text, as it is or fit for a log."""
        super().write(printable(redact(text.replace("\r\n", "\n").replace("\r", "\n"))) if self.in_log else text)
        return len(text)

    def close(self) -> None:
        """Only flush: the text of others would be lost, and theirs would fail."""
        self.flush()


class Streams:
    """Stdout and stderr of a running command."""

    def __init__(self) -> None:
        self.stdout = _replaced("stdout")
        self.stderr = _replaced("stderr")
        self._bear(self.stderr)  # a message that nobody can read must not end what it is about

    @staticmethod
    def _bear(stream: TextIO) -> None:
        if isinstance(stream, _Stream):
            stream.descriptor.bears = True

    def bear(self) -> None:
        """From now on drop what stdout does not take, too."""
        self._bear(self.stdout)


@contextlib.contextmanager
def own_streams() -> Iterator[Streams]:
    """Replace ``sys.stdout`` and ``sys.stderr`` inside the with block; a program's own streams are left as they are."""
    codecs.register_error(_ERRORS, _in_other_letters)
    _open_closed()
    before = sys.stdout, sys.stderr
    streams = Streams()
    sys.stdout, sys.stderr = streams.stdout, streams.stderr
    _running.append(streams)
    try:
        yield streams
    finally:
        _running.pop()
        streams.bear()  # what is still buffered has failed once
        for now, old, name in ((streams.stdout, before[0], "stdout"), (streams.stderr, before[1], "stderr")):
            if now is not old:
                now.flush()
                setattr(sys, name, old)  # also over what an environment put there, which Python would flush at exit


def take_back_streams() -> None:
    """Print on the command's own streams again, whatever an environment or a sink has put in their place."""
    if _running:
        sys.stdout, sys.stderr = _running[-1].stdout, _running[-1].stderr


def bear_lost_readers() -> None:
    """Drop from now on what stdout does not take: training goes on without its reader, an environment's own too."""
    if isinstance(sys.stdout, _Stream):
        sys.stdout.descriptor.bears = True


def print_to_log() -> None:
    """From now on stdout and stderr lead to ``trainer.log``, which others read on their terminals."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Stream):
            stream.in_log = True


def stream_error(stream: TextIO | None) -> OSError | None:
    """Why a stream took nothing more; None when it took everything so far."""
    if stream is None:
        return None
    with contextlib.suppress(Exception):  # perhaps somebody else's stream
        stream.flush()
    return stream.descriptor.error if isinstance(stream, _Stream) else None


def _replaced(name: str) -> TextIO:
    """A stream of ours on the descriptor of the present one; the present one when it has none (a test, a notebook)."""
    old: TextIO = getattr(sys, name)
    if isinstance(old, _Stream):
        return old
    try:
        old.flush()
        if type(old) is not io.TextIOWrapper or not isinstance(old.buffer, io.BufferedWriter | io.FileIO):
            return old
        return _Stream(old, f"<{name}>")
    except (OSError, ValueError, AttributeError):
        return old


def _open_closed() -> None:
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


def _in_other_letters(error: UnicodeError) -> tuple[str, int]:
    """What is printed for characters that an encoding lacks: a sign's ASCII form, else an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    from esper_core.reading.glyphs import to_ascii

    return "".join(_ascii(sign, to_ascii) for sign in error.object[error.start : error.end]), error.end


def _ascii(sign: str, to_ascii: Callable[[str], str]) -> str:
    letter = _WORDS.get(sign) or to_ascii(sign)
    return escaped(sign) if letter == "?" else letter

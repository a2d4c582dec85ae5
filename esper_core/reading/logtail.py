"""The end of a run's ``trainer.log``, as text that is fit for a terminal."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from esper_core.runs.files import open_file
from esper_core.terminal import printable

if TYPE_CHECKING:
    from esper_core.runs.layout import RunDir

__all__ = ["log_tail"]

_MOST_BYTES: Final = 128 * 1024
_COLOURS: Final = re.compile("\x1b\\[[0-9;:]*m")


def log_tail(run: RunDir, *, most_bytes: int = _MOST_BYTES) -> str:
    r"""The last lines of the log, without its colours; what else does not print is escaped.

    Without a log, or with one that cannot be read, that in words.

    A line that a progress bar wrote over and over (``\\r``) stands there as it was written last.
    """
    try:
        with open_file(run.log_path) as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(size - most_bytes, 0)
            file.seek(begin)
            content = file.read(most_bytes)
    except FileNotFoundError:
        return (
            "no log: esper ppo behind a screen prints into trainer.log, others write it when there is something to tell"
        )
    except OSError as error:
        return f"the log cannot be read: {error.strerror or error}"
    text = content.decode(errors="replace").replace("\r\n", "\n")
    if begin:
        text = text.partition("\n")[2]
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")]
    return printable(_COLOURS.sub("", "\n".join(lines))) or "the log is empty"

"""How this process was started: what ``run.json`` keeps of it, secrets masked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from esper_core.masking import learn_arguments, redact
from esper_core.runs.state import StartRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["start_record"]


def start_record(origins: Mapping[str, str]) -> StartRecord:
    """The command line, the working directory, and where each value of the configuration came from.

    Args:
        origins: ``Resolved.origins``: dotted key -> origin, of every value that is not a default.
    """
    words = list(sys.argv)
    learn_arguments(words[1:])
    if words and Path(words[0]).parts[-2:] in {("esper_core", "__main__.py"), ("bin", "esper")}:
        words[0] = "esper"
    try:
        here = os.getcwd()  # noqa: PTH109  # a text, also when it was deleted
    except OSError:
        here = ""
    return StartRecord(
        command=tuple(redact(word) for word in words),
        directory=here,
        origins={key: redact(origin) for key, origin in origins.items()},
    )

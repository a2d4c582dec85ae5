"""Paths as a caller gives them: a run's name or path as text, and the folder that relative ones start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from esper_core.errors import UsageError

__all__ = ["A_RUN", "path_text", "working_directory"]

A_RUN: Final = 'a run, its path, its id, a part of its id, or "latest"'
"""What names a run in Python, as errors say it."""


def path_text(argument: str, value: object, expected: str = A_RUN) -> str:
    """The text of an argument that is a string or a path.

    Args:
        argument: its name in the caller's signature, for the error.
        value: as given.
        expected: what it should be, in words.

    Raises:
        UsageError: it is something else.
    """
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(given, str):
        raise UsageError(f"{argument}: expected {expected} (is {value!r})")
    return given


def working_directory() -> Path:
    """The working directory, to which relative paths are joined before code of others may change it.

    Raises:
        UsageError: it was deleted.
    """
    try:
        return Path.cwd()
    except OSError:
        raise UsageError("the working directory was deleted", hint="change to a folder that exists") from None

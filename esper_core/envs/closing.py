"""Closes environments when what they were for is done: an error in it, or no end of it, is only told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from esper_core.deadline import within
from esper_core.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CLOSE_S", "close_in_time"]

CLOSE_S: Final = 10.0
"""Seconds that environments get at least: simulators end processes of their own."""


class _Closing(Protocol):
    @property
    def name(self) -> str: ...

    def close(self) -> None: ...


def close_in_time(task: _Closing | None, on_notice: Callable[[str], object], seconds: float = CLOSE_S) -> None:
    """Close the environments of a task; None has none.

    Args:
        task: a task, or another owner of environments.
        on_notice: called with the line about what failed.
        seconds: that it may take, where a deadline is possible (:func:`esper_core.deadline.within`).
    """
    if task is None:
        return
    try:
        with within(seconds):
            task.close()
    except (Exception, SystemExit) as error:  # noqa: BLE001  # code of the environment's author
        said = f"exit({error.code!r}) was called" if isinstance(error, SystemExit) else error_text(error)
        on_notice(f"environment {task.name}: closing it failed: {said}")

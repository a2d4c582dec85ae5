"""What fails beside the training, an evaluation or a video, and does not harm it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from esper_core.errors import error_text

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Failures"]

_log = logging.getLogger("esper.ppo")


class Failures:
    """Counts failures. Each goes to the log with its traceback; of several in a row the user is told the first.

    Args:
        on_failure: called with a line of text for the user; None tells nobody.

    Attributes:
        count: failures so far.
    """

    def __init__(self, on_failure: Callable[[str], object] | None) -> None:
        self.count = 0
        self._on_failure = on_failure
        self._in_a_row = False

    def tell(self, what: str, error: Exception) -> None:
        """Count one; ``what`` failed, as the beginning of a sentence that the error's words end."""
        self.count += 1
        first, self._in_a_row = not self._in_a_row, True
        line = f"{what}: {error_text(error)}"
        _log.warning("%s", line, exc_info=error)
        if first and self._on_failure is not None:
            self._on_failure(line)

    def over(self) -> None:
        """It worked: the next failure is news again."""
        self._in_a_row = False

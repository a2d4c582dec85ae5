"""The reading thread: calls ``tick`` of the watch four times a second, indexes in between, and draws nothing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from esper_sink_tui.watch import Watch

__all__ = ["TICK_S", "Feeder"]

TICK_S: Final = 0.25
_BREATH_S: Final = 0.002
_AGAIN_S: Final = 1.0
"""Seconds until reading goes on after an error: one file may not end the reading of all others."""


class Feeder(threading.Thread):
    """Reads the sources of a watch in the background.

    The thread is a daemon: a file system that hangs blocks this thread and not the viewer.

    Args:
        watch: what to read.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__(name="sanctum-feeder", daemon=True)
        self._watch = watch
        self._end = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Read until closed."""
        while not self._end.is_set():
            try:
                more = self._watch.tick()
                more = self._watch.extend_index() or more
            except Exception as error:  # noqa: BLE001  # shown by the app, which still handles keys
                self.error = error
                self._end.wait(_AGAIN_S)
            else:
                # While much is read, pause so that the screen's thread can handle keys.
                self._end.wait(_BREATH_S if more else TICK_S)

    def close(self, timeout_s: float = 1.0) -> None:
        """Stop reading; wait a short time for the thread."""
        self._end.set()
        if self.is_alive():
            self.join(timeout_s)

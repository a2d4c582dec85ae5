"""Tells finished episodes from a thread of its own, so that a loop that ends thousands of them goes on meanwhile."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from esper_core.emitter._spans import OpenSpan
    from esper_core.events import EpisodeFinished

__all__ = ["Behind"]

_LOOK_S: Final = 1.0
"""Seconds after which whoever waits looks whether the thread still lives."""


class Behind:
    """A thread that tells episodes in their order. Only one thread, the emitting one, calls its methods.

    Args:
        tell: takes an episode, the span that it lies in, and the moment at which it ended, unix nanoseconds.
    """

    def __init__(self, tell: Callable[[EpisodeFinished, OpenSpan | None, int], object]) -> None:
        self._tell = tell
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._behind = False
        self._ended = False

    def put(self, episodes: Iterable[EpisodeFinished], parent: OpenSpan | None, now: int) -> None:
        """Hand episodes over; they are looked at in the thread, or here where the system gives none."""

        def tell() -> None:
            for episode in episodes:
                self._tell(episode, parent, now)

        if self._thread is None:
            thread = threading.Thread(target=self._run, name="esper-episodes", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system gives none, or the interpreter ends
                tell()
                return
            self._thread = thread
        self._behind = True
        self._waiting.put(tell)

    def settle(self) -> None:
        """Wait until all of them are told, so that what is emitted next comes after them. Takes no CPU time."""
        if not self._behind or self._thread is None:
            return
        told = threading.Event()
        self._waiting.put(told.set)
        while not told.wait(_LOOK_S):
            if not self._thread.is_alive():  # a hook raised, which no hook of the host does
                self._thread = None
                return
        self._behind = False

    def close(self) -> None:
        """Tell what waits, and end the thread."""
        self.settle()
        if self._thread is not None:
            self._waiting.put(self._end)
            self._thread.join(_LOOK_S)
            self._thread = None

    def _end(self) -> None:
        self._ended = True

    def _run(self) -> None:
        while not self._ended:
            self._waiting.get()()

"""Closing everything that receives events at the same time, within one deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from esper_core.hooks import CloseReason
    from esper_core.host.deliver.channel import Channel
    from esper_core.host.deliver.guard import Guard

__all__ = ["Closable", "close_together"]


class Closable:
    """Anything that closes in its own daemon thread within the common deadline; a channel is one."""

    guard: Guard

    def begin_close(self, reason: object) -> None:
        """Start closing. Returns at once."""
        raise NotImplementedError

    def closed(self, timeout_s: float) -> bool:
        """Wait until closing has ended; False when it has not after ``timeout_s`` seconds."""
        raise NotImplementedError

    def cut_off(self) -> None:
        """Stop waiting for it: its undelivered items count as lost."""
        raise NotImplementedError


def close_together(
    targets: Iterable[Channel | Closable],
    reason: CloseReason,
    deadline_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Start closing all, wait until the common deadline, and cut off the rest. Ctrl-C ends the wait at once."""
    waiting = list(targets)
    end = clock() + deadline_s
    try:
        for target in waiting:
            target.begin_close(reason)
        while waiting and waiting[0].closed(max(0.0, end - clock())):
            waiting.pop(0)
        # The first one that is late used up the deadline: the others are closed by now, or late too.
        waiting = [target for target in waiting if not target.closed(0.0)]
    finally:
        # Backwards: processors come last, and hand nothing more to a sink that has counted what it holds.
        for target in reversed(waiting):
            if not target.closed(0.0):
                target.cut_off()

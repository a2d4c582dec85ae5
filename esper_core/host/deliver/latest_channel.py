"""Delivery of the newest event of each hook."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from esper_core.host.deliver.thread_channel import ThreadChannel

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.host.deliver.guard import Guard

__all__ = ["LatestChannel"]


class LatestChannel(ThreadChannel):
    """Delivers the newest event of each hook (``latest``), for displays. A replaced event does not count as lost."""

    delivery = "latest"

    def __init__(self, guard: Guard, deliver: Callable[[str, Any], object], **hooks: Any) -> None:
        super().__init__(guard, deliver, **hooks)
        self._newest: dict[str, Any] = {}

    def put(self, hook: str, event: Any) -> None:
        """Store one event; it replaces an older undelivered event of the same hook."""
        if os.getpid() != self._pid:
            return
        if self.guard.is_disabled():
            self.guard.lose(1)
            return
        with self._wake:
            if self._reason is not None:
                self.guard.lose(1)
                return
            # Remove and append again, so that events are delivered in the order in which they were emitted.
            self._coalesced += self._newest.pop(hook, None) is not None
            self._newest[hook] = event
            self._wake.notify_all()

    def _take(self) -> tuple[str, Any] | None:
        if not self._newest:
            return None
        hook = next(iter(self._newest))
        return hook, self._newest.pop(hook)

    def _held(self) -> int:
        return len(self._newest)

"""Messages that wait to be sent: a bounded queue and a thread, so that no retry holds the sink or the end of a run."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from esper_sink_webhook.post import deliver

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_sink_webhook.post import Outcome, Target
    from esper_sink_webhook.shapes import Message

__all__ = ["Outbox"]

MOST: Final = 64
"""Messages that may wait; then the oldest is lost. Who was away for so many wants the newest."""


class Outbox:
    """Sends messages in order, each within its own limit.

    Args:
        target: where to.
        retry_s: how long one message is tried; None tries it once.
        on_outcome: told what became of each message, in the outbox's thread; None when it had no place.
    """

    def __init__(self, target: Target, retry_s: float | None, on_outcome: Callable[[Outcome | None], object]) -> None:
        self._target = target
        self._retry_s = retry_s
        self._on_outcome = on_outcome
        self._waiting: deque[Message] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._end: float | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="esper-webhook", daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue a message. Never waits for the network."""
        with self._changed:
            dropped = len(self._waiting) >= MOST
            if dropped:
                self._waiting.popleft()
            self._waiting.append(message)
            self._changed.notify_all()
        if dropped:
            self._on_outcome(None)

    def settled(self, timeout_s: float) -> bool:
        """Wait until nothing waits and nothing travels."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def close(self, timeout_s: float) -> int:
        """Send what is left within the time. Returns how many messages were not sent."""
        with self._changed:
            self._end = time.monotonic() + timeout_s
            self._ending.set()
            self._changed.notify_all()
        self._thread.join(timeout_s + 0.2)
        return self.unsent()

    def unsent(self) -> int:
        """How many messages wait or travel."""
        with self._changed:
            return len(self._waiting) + self._busy

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._end is not None)
                over = self._end is not None and time.monotonic() >= self._end
                if over or not self._waiting:
                    return
                message, self._busy = self._waiting.popleft(), True
            outcome = self._deliver(message)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
            self._on_outcome(outcome)

    def _deliver(self, message: Message) -> Outcome:
        """Try until the message's limit, or the end's, when that comes meanwhile."""
        begun, retry_s = time.monotonic(), self._retry_s
        own = begun + (self._target.timeout_s if retry_s is None else retry_s)
        return deliver(
            self._target,
            message,
            lambda: own if self._end is None else min(own, self._end),
            self._wait,
            once=retry_s is None,
        )

    def _wait(self, seconds: float) -> None:
        """Wait; the beginning of the end is a reason to try at once."""
        if self._ending.is_set():
            time.sleep(seconds)
        else:
            self._ending.wait(seconds)

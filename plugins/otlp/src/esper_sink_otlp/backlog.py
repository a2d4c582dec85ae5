"""A bounded queue that knows what became of every item it was ever given."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from esper_core.errors import SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Account", "Backlog"]

ItemT = TypeVar("ItemT")

_PATIENCE_S: Final = 30.0
"""How long a patient backlog waits for the receiver to make progress before it drops."""


@dataclass(slots=True)
class Account:
    """What became of a signal's items. ``emitted == delivered + lost`` once it is closed, by construction.

    An item is delivered when the receiver has acknowledged it before the end, and in no other case. A request that was
    read and then reset, or answered after the deadline, counts as lost: nobody can know better.

    Attributes:
        emitted: items given to the sink.
        delivered: items the receiver acknowledged.
        rejected: items the receiver refused for good, or that cannot be encoded.
        dropped: items that the queue had no place for.
        outside: items kept out because the backend would refuse them for their age.
        closed: the end is over; what is undelivered is lost.
    """

    emitted: int = 0
    delivered: int = 0
    rejected: int = 0
    dropped: int = 0
    outside: int = 0
    closed: bool = False

    @property
    def undelivered(self) -> int:
        """Items that wait or travel: of these nothing is known yet."""
        return self.emitted - self.delivered - self.rejected - self.dropped - self.outside

    @property
    def unsent(self) -> int:
        """Items that were not acknowledged when the time was over."""
        return self.undelivered if self.closed else 0

    @property
    def lost(self) -> int:
        """Items that did not arrive, as far as is known now."""
        return self.rejected + self.dropped + self.outside + self.unsent


class Backlog(Generic[ItemT]):
    """Items that wait for the receiver, oldest first. When it is full the oldest is dropped and counted.

    What was taken and not yet settled counts as undelivered, so that no item is ever outside the account.

    Args:
        size: items that may wait; what is being sent comes on top.
        patient: a replay waits for a place instead of dropping, as long as the receiver makes progress.
    """

    def __init__(self, size: int, *, patient: bool = False) -> None:
        self.account = Account()
        self.wake: Callable[[], None] = lambda: None
        self._size = size
        self._patient = patient
        self._items: deque[ItemT] = deque()
        self._changed = threading.Condition()
        self._progress_at = time.monotonic()

    # --- any thread ---------------------------------------------------------------------------

    def put(self, item: ItemT) -> int:
        """Queue an item; live, this never waits. Returns how many wait now.

        Raises:
            SinkError: it is closed. The host counts the item as lost, since no account here can any more.
        """
        with self._changed:
            if self.account.closed:
                raise SinkError("the end of the otlp sink was over")
            self.account.emitted += 1
            if len(self._items) >= self._size:
                self._make_room()
            if not self.account.closed:  # closed while a replay waited
                self._items.append(item)
            return len(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def close(self) -> None:
        """Take nothing more; what is undelivered is lost, also when an answer still comes."""
        with self._changed:
            self.account.closed = True
            self._items.clear()
            self._changed.notify_all()

    # --- the exporter's thread ----------------------------------------------------------------

    def take(self, count: int) -> list[ItemT]:
        """Take out up to ``count``, which stay undelivered until they are settled or restored."""
        with self._changed:
            taken = [self._items.popleft() for _ in range(min(count, len(self._items)))]
            self._changed.notify_all()
        return taken

    def restore(self, items: Sequence[ItemT]) -> None:
        """Put back what could not be sent now, in front."""
        with self._changed:
            if not self.account.closed:
                self._items.extendleft(reversed(items))

    def settle(self, *, delivered: int = 0, rejected: int = 0, outside: int = 0) -> None:
        """Say what became of items that were taken. Ignored after ``close``."""
        with self._changed:
            if self.account.closed:
                return
            self.account.delivered += delivered
            self.account.rejected += rejected
            self.account.outside += outside
            self._progress_at = time.monotonic()

    # --- inside -------------------------------------------------------------------------------

    def _make_room(self) -> None:
        self.wake()
        if self._patient:
            while len(self._items) >= self._size and not self.account.closed:
                left_s = self._progress_at + _PATIENCE_S - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    break
        while len(self._items) >= self._size:
            self._items.popleft()
            self.account.dropped += 1

"""A queue whose thread lingers for more events: nothing waits where somebody waits for it, and nothing is lost."""

from __future__ import annotations

import threading

from esper_core.hooks import CloseReason
from esper_core.host.deliver.guard import Guard
from esper_core.host.deliver.queue_channel import QueueChannel

GUARD_S = 250.0
HOOK = "esper_ppo_updated"


class Lingering:
    """A channel that lingers for longer than any test takes, and what it has delivered."""

    def __init__(self, size: int) -> None:
        self.delivered: list[int] = []
        self.many = threading.Event()
        self.size = size
        self.channel = QueueChannel(Guard("slow"), self.deliver, size=size, linger_s=10 * GUARD_S)
        self.channel.open()
        assert self.channel.opened(GUARD_S) is None

    def deliver(self, _: str, event: int) -> None:
        self.delivered.append(event)
        if 2 * len(self.delivered) >= self.size:
            self.many.set()

    def put(self, count: int) -> list[int]:
        for event in range(count):
            self.channel.put(HOOK, event)
        return list(range(count))

    def close(self) -> None:
        self.channel.begin_close(CloseReason.DONE)
        assert self.channel.closed(GUARD_S)


def test_closing_and_flushing_end_the_linger() -> None:
    lingering = Lingering(size=1000)
    put = lingering.put(3)
    assert lingering.channel.flush(GUARD_S)
    assert lingering.delivered == put
    put += lingering.put(2)
    lingering.close()
    assert lingering.delivered == put


def test_half_a_queue_ends_the_linger() -> None:
    lingering = Lingering(size=8)
    put = lingering.put(4)
    assert lingering.many.wait(GUARD_S)
    lingering.close()
    assert lingering.delivered == put
    assert lingering.channel.report().lost == 0

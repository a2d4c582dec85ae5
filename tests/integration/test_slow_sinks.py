"""Slow and refusing sinks, with real threads: nobody waits for them, and what they lose is counted.

Nothing here is timed. A sink is slow or hung until the test opens its gate, a back-off ends when the test's clock says
so, and deadlines guard against hanging alone.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from faulty_sinks import CLOSE_S, Asked, Clock, Gated, open_hub, play_to_gated, play_updates, shut_hub

from esper_core.config.schema import DeliveryConfig
from esper_core.events import EpisodeFinished, RunStarted
from esper_core.hooks import CloseReason, hookimpl
from esper_core.host.deliver.queue_channel import FULL_WAIT_S
from esper_core.testing import make_event, make_update

if TYPE_CHECKING:
    from collections.abc import Callable

    Eventually = Callable[[Callable[[], Any]], Any]


def test_the_emitter_waits_once_for_a_hung_sink_and_not_again() -> None:
    hung = Gated()
    hub = shut_hub({"hung": hung}, hung=DeliveryConfig(queue_size=4))
    asked = Asked.of(hub, "hung")
    hub.open()
    play_to_gated(hub, hung, 40)
    assert asked.waits == [FULL_WAIT_S]
    (report,) = hub.close(CloseReason.DONE, 0.1)
    assert report.lost == 40, "35 displaced, 4 in the queue, one in hand"
    hung.gate.set()


def test_a_slow_sink_loses_exactly_what_is_counted_and_keeps_the_order() -> None:
    slow = Gated()
    hub = open_hub({"slow": slow}, slow=DeliveryConfig(queue_size=5))
    play_to_gated(hub, slow, 50)
    assert [change.state for change in hub.drain_status()] == ["failing"]
    slow.gate.set()
    assert hub.drain(CLOSE_S)
    (report,) = hub.close(CloseReason.DONE, CLOSE_S)
    assert slow.seen == [1, 46, 47, 48, 49, 50], "the one in hand, and the newest"
    assert (report.delivered, report.lost) == (6, 44)
    assert [change.state for change in hub.drain_status()] == ["recovered"]


def test_a_slow_sink_that_is_merely_behind_loses_nothing_and_holds_no_one() -> None:
    slow = Gated()
    hub = open_hub({"slow": slow})
    play_to_gated(hub, slow, 100)
    assert slow.seen == [], "the emitter has emitted all while the sink blocks in the first"
    slow.gate.set()
    (report,) = hub.close(CloseReason.DONE, CLOSE_S)
    assert slow.seen == list(range(1, 101))
    assert (report.delivered, report.lost, report.cut_off) == (100, 0, False)


def test_episodes_make_room_for_updates() -> None:
    release = threading.Event()
    seen: list[str] = []

    class Watching:
        @hookimpl
        def esper_ppo_updated(self, event: Any) -> None:
            release.wait(CLOSE_S)
            seen.append(event.kind)

        @hookimpl
        def esper_episode_finished(self, event: Any) -> None:
            seen.append(event.kind)

        @hookimpl
        def esper_run_started(self, event: Any) -> None:
            seen.append(event.kind)

    hub = open_hub({"watching": Watching()}, watching=DeliveryConfig(queue_size=4))
    hub.hooks.esper_run_started(event=make_event(RunStarted(environment="x")))
    for number in range(1, 6):
        hub.hooks.esper_ppo_updated(event=make_event(make_update(number)))
        hub.hooks.esper_episode_finished(event=make_event(EpisodeFinished(episode=number, episode_return=1, length=1)))
    release.set()
    (report,) = hub.close(CloseReason.DONE, CLOSE_S)
    assert seen.count("ppo_updated") == 5
    assert report.delivered + report.lost == 11


def test_latest_shows_the_newest_and_counts_what_it_skipped_as_no_loss() -> None:
    slow = Gated()
    hub = open_hub({"slow": slow}, slow=DeliveryConfig(mode="latest"))
    play_to_gated(hub, slow, 50)
    slow.gate.set()
    (report,) = hub.close(CloseReason.DONE, CLOSE_S)
    assert slow.seen == [1, 50]
    assert (report.delivered, report.coalesced, report.lost) == (2, 48, 0)


class Disk:
    """Refuses while it is full, and remembers when it was asked."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.full = False
        self.lines: list[int] = []
        self.refused: list[float] = []

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        if self.full:
            self.refused.append(self.clock.now)
            raise OSError(28, "No space left on device")
        self.lines.append(event.payload.update_id)


class InlineDisk(Disk):
    delivery = "inline"


def test_a_full_disk_is_asked_again_after_the_back_off_and_loses_nothing(eventually: Eventually) -> None:
    clock = Clock()
    disk = Disk(clock)
    hub = shut_hub({"disk": disk}, clock=clock)
    asked = Asked.of(hub, "disk")
    hub.open()
    play_updates(hub, 5)
    assert hub.drain(CLOSE_S)
    disk.full = True
    play_updates(hub, 7, first=6)
    eventually(lambda: asked.rests)
    clock.now += 0.125
    # Half of the back-off is over: what is left is waited for, however often the thread wakes.
    eventually(lambda: asked.rests[-1] == 0.125)
    disk.full = False
    clock.now += 0.125
    assert hub.drain(CLOSE_S)
    (report,) = hub.close(CloseReason.DONE, CLOSE_S)
    assert asked.rests[0] == 0.25
    assert disk.refused == [100.0]
    assert disk.lines == [1, 2, 3, 4, 5, 6, 7]
    assert (report.state, report.delivered, report.lost) == ("closed", 7, 0)


def test_a_full_disk_in_the_trainers_thread_is_not_waited_for_and_loses_what_it_must() -> None:
    clock = Clock()
    disk = InlineDisk(clock)
    hub = shut_hub({"disk": disk}, clock=clock)
    hub.open()
    play_updates(hub, 5)
    disk.full = True
    play_updates(hub, 6, first=6)
    clock.now += 0.125
    play_updates(hub, 7, first=7)
    disk.full = False
    clock.now += 0.125
    play_updates(hub, 8, first=8)
    (report,) = hub.close(CloseReason.DONE, CLOSE_S)
    assert disk.refused == [100.0], "a full disk is not asked at once again"
    assert disk.lines == [1, 2, 3, 4, 5, 8]
    assert (report.state, report.delivered, report.lost) == ("closed", 6, 2)

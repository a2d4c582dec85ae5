"""Raising, slow, hung and exiting sinks, with real threads: everyone else receives everything, in order, in time.

Nothing here is timed. A sink is slow or hung until the test opens its gate, a back-off ends when the test's clock says
so, and deadlines guard against hanging alone.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.config.schema import DeliveryConfig, EsperConfig
from esper_core.errors import SinkError
from esper_core.events import EpisodeFinished, RunStarted
from esper_core.health import RunState
from esper_core.hooks import CloseReason, SinkContext, hookimpl
from esper_core.host.deliver.hub import ActiveSink, Closable, Hub, close_together
from esper_core.host.deliver.queue_channel import FULL_WAIT_S
from esper_core.host.load.discovery import LoadedSink
from esper_core.host.load.inspection import inspect_sink
from esper_core.host.load.selection import Selection
from esper_core.host.session import Session
from esper_core.testing import RecordingSink, make_event, make_update

if TYPE_CHECKING:
    from collections.abc import Callable

    Eventually = Callable[[Callable[[], Any]], Any]

UPDATES = 60
CLOSE_S = 60.0
"""Time to close for sinks that do close: a guard against hanging."""
CUT_S = 2.0
"""Time to close beside sinks that never do. The others have nothing left to deliver by then."""


class Raising:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        raise RuntimeError("no")


class Exiting:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        raise SystemExit(3)


class InlineExiting(Exiting):
    delivery = "inline"


class Deferred:
    """A hook whose body is a coroutine, or another awaitable, behind a wrapper, which loading cannot see."""

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> Any:
        return self._later(event) if event.payload.update_id % 2 else Awaitable()

    async def _later(self, event: Any) -> None:
        raise AssertionError("nobody awaits it")


class Awaitable:
    def __await__(self) -> Any:
        raise AssertionError("nobody awaits it")


class Gated:
    """A sink whose first update blocks until the gate opens; later updates return at once."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.seen: list[int] = []

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        self.entered.set()
        self.gate.wait(CLOSE_S)
        self.seen.append(event.payload.update_id)


class HungClose:
    def __init__(self) -> None:
        self.gate = threading.Event()

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        """Take it."""

    @hookimpl
    def esper_sink_closed(self, reason: CloseReason) -> None:
        self.gate.wait(CLOSE_S)


class Clock:
    """A clock in seconds that only the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Asked(threading.Condition):
    """A channel's condition that records its timeouts: the waits for room, and those before another attempt."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())
        self.waits: list[float | None] = []
        self.rests: list[float] = []

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        self.waits.append(timeout)
        return super().wait_for(predicate, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None:
            self.rests.append(timeout)
        return super().wait(timeout)

    @classmethod
    def of(cls, hub: Hub, name: str) -> Asked:
        """Put one into a channel that is not open yet."""
        asked = hub._channels[name]._wake = cls()  # type: ignore[attr-defined]  # looking inside
        return asked


def _active(instance: object, name: str, *, named: bool = True) -> ActiveSink:
    seen = inspect_sink(type(instance), name)
    delivery = getattr(instance, "delivery", seen.delivery)
    loaded = LoadedSink(
        name=name,
        spec=name,
        factory=type(instance),
        distribution=f"esper-sink-{name}",
        version="1.0",
        hooks=seen.hooks,
        delivery=delivery,
        named=named,
    )
    return ActiveSink(loaded=loaded, instance=instance)


def _shut_hub(sinks: dict[str, object], *, clock: Clock | None = None, **delivery: DeliveryConfig) -> Hub:
    options: dict[str, Any] = {"clock": clock} if clock is not None else {}
    return Hub([_active(sink, name) for name, sink in sinks.items()], SinkContext(run_id="r"), delivery, **options)


def _hub(sinks: dict[str, object], **delivery: DeliveryConfig) -> Hub:
    hub = _shut_hub(sinks, **delivery)
    hub.open(timeout_s=CLOSE_S)
    return hub


def _play(hub: Hub, count: int = UPDATES, *, first: int = 1) -> None:
    """Emit updates."""
    for number in range(first, count + 1):
        hub.hooks.esper_ppo_updated(event=make_event(make_update(number)))


def _play_to_gated(hub: Hub, sink: Gated, count: int) -> None:
    """Emit updates, the second one once the sink blocks in the first."""
    _play(hub, 1)
    assert sink.entered.wait(CLOSE_S)
    _play(hub, count, first=2)


class Writing:
    """Writes inline, and looks whether a sink with a thread has shown the update meanwhile."""

    delivery = "inline"

    def __init__(self, shown: threading.Event) -> None:
        self.shown = shown
        self.first: list[bool] = []

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        self.first.append(not self.shown.wait(0.05))


class Showing:
    """Shows in a thread."""

    delivery = "all"

    def __init__(self) -> None:
        self.shown = threading.Event()

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        self.shown.set()


def test_what_is_shown_has_been_written() -> None:
    """Else a kill between the two leaves an update on the terminal that no journal has."""
    showing = Showing()
    writing = Writing(showing.shown)
    hub = _hub({"showing": showing, "writing": writing})
    _play(hub, 1)
    assert showing.shown.wait(CLOSE_S)
    hub.close(CloseReason.DONE, CLOSE_S)
    assert writing.first == [True]


def test_a_hook_that_only_returns_a_coroutine_delivers_nothing_and_says_so() -> None:
    beside = RecordingSink()
    hub = _hub({"deferred": Deferred(), "beside": beside})
    _play(hub)
    hub.close(CloseReason.DONE, CLOSE_S)
    statuses = {item.name: item for item in hub.statuses()}
    found = statuses["deferred"]
    assert (found.delivered, found.lost, found.state) == (0, UPDATES, "disabled")
    assert "esper_ppo_updated returned a coroutine, which nobody runs" in found.message
    assert statuses["beside"].delivered == UPDATES


def _ids(sink: RecordingSink) -> list[int]:
    return [event.payload.update_id for event in sink.events if event.kind == "ppo_updated"]


def test_a_crowd_of_bad_sinks_harms_no_good_one(eventually: Eventually) -> None:
    good, inline = RecordingSink(), RecordingSink()
    inline.delivery = "inline"  # type: ignore[misc]  # a class attribute, for this instance only
    hung, hung_close = Gated(), HungClose()
    hub = _hub(
        {
            "first": good,
            "raising": Raising(),
            "exiting": Exiting(),
            "inline-exiting": InlineExiting(),
            "hung": hung,
            "hung-close": hung_close,
            "last": inline,
        }
    )
    _play(hub)
    eventually(lambda: all(report.queued == 0 for report in hub.statuses() if report.name != "hung"))
    reports = {report.name: report for report in hub.close(CloseReason.DONE, CUT_S)}
    assert _ids(good) == _ids(inline) == list(range(1, UPDATES + 1))
    assert (good.closed, inline.closed) == (CloseReason.DONE, CloseReason.DONE)
    assert {name for name, report in reports.items() if report.cut_off} == {"hung", "hung-close"}
    for name in ("raising", "exiting", "inline-exiting"):
        report = reports[name]
        assert (report.state, report.failures, report.delivered, report.lost) == ("disabled", 5, 0, UPDATES), name
    assert (reports["hung"].delivered, reports["hung"].lost) == (0, UPDATES)
    assert (reports["hung-close"].delivered, reports["hung-close"].lost) == (UPDATES, 0)
    assert (reports["first"].delivered, reports["first"].lost) == (UPDATES, 0)
    hung.gate.set()
    hung_close.gate.set()


class Holding(HungClose):
    """Keeps a queue of its own, and says too late what became of it."""

    def __init__(self, *, hangs: bool = False) -> None:
        super().__init__()
        self.hangs = hangs
        self.taken = 0
        self.said_late = threading.Event()

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        self.context = context

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        self.taken += 1

    @hookimpl
    def esper_sink_cut_off(self) -> None:
        if self.hangs:
            self.gate.wait(250)
        self.context.report("failing", "nobody took them", lost=self.taken)
        self.said_late.set()


def test_what_a_sink_holds_when_it_is_cut_off_is_lost() -> None:
    """The otlp sink's queue was in no count: it reports when it has closed, and it was not waited for."""
    holding, hanging = Holding(), Holding(hangs=True)
    hub = _hub({"holding": holding, "hanging": hanging})
    _play(hub)
    reports = {report.name: report for report in hub.close(CloseReason.DONE, 0.1)}
    account = reports["holding"]
    assert account.cut_off
    assert account.lost == UPDATES, "those in front of it, and those that it had taken"
    hanging.gate.set()
    assert hanging.said_late.wait(250)
    assert reports["hanging"].cut_off
    assert next(item.lost for item in hub.statuses() if item.name == "hanging") == reports["hanging"].lost
    holding.gate.set()


class Closing(Closable):
    """Closes at a moment of a clock, and remembers how long it was waited for."""

    def __init__(self, clock: Clock, at: float) -> None:
        self.clock, self.at = clock, at
        self.waits: list[float] = []
        self.is_cut_off = False

    def begin_close(self, reason: object) -> None:
        """Nothing: it closes when its moment comes."""

    def closed(self, timeout_s: float) -> bool:
        self.waits.append(timeout_s)
        if self.clock.now < self.at:
            self.clock.now += min(timeout_s, self.at - self.clock.now)
        return self.clock.now >= self.at

    def cut_off(self) -> None:
        self.is_cut_off = True


def test_all_that_close_share_one_deadline() -> None:
    clock = Clock()
    never, late, timely = (Closing(clock, at) for at in (1000.0, 103.5, 101.0))
    close_together([timely, never, late, never], CloseReason.DONE, 3.0, clock=clock)
    assert clock.now == 103.0, "the deadline of one is that of all"
    assert timely.waits == [3.0]
    assert never.waits[0] == pytest.approx(2.0), "what the first one left"
    assert not any((*never.waits[1:], *late.waits))
    assert [item.is_cut_off for item in (timely, never, late)] == [False, True, True]


def test_the_emitter_waits_once_for_a_hung_sink_and_not_again() -> None:
    hung = Gated()
    hub = _shut_hub({"hung": hung}, hung=DeliveryConfig(queue_size=4))
    asked = Asked.of(hub, "hung")
    hub.open()
    _play_to_gated(hub, hung, 40)
    assert asked.waits == [FULL_WAIT_S]
    (report,) = hub.close(CloseReason.DONE, 0.1)
    assert report.lost == 40, "35 displaced, 4 in the queue, one in hand"
    hung.gate.set()


def test_a_slow_sink_loses_exactly_what_is_counted_and_keeps_the_order() -> None:
    slow = Gated()
    hub = _hub({"slow": slow}, slow=DeliveryConfig(queue_size=5))
    _play_to_gated(hub, slow, 50)
    assert [change.state for change in hub.drain_status()] == ["failing"]
    slow.gate.set()
    assert hub.drain(CLOSE_S)
    (report,) = hub.close(CloseReason.DONE, CLOSE_S)
    assert slow.seen == [1, 46, 47, 48, 49, 50], "the one in hand, and the newest"
    assert (report.delivered, report.lost) == (6, 44)
    assert [change.state for change in hub.drain_status()] == ["recovered"]


def test_a_slow_sink_that_is_merely_behind_loses_nothing_and_holds_no_one() -> None:
    slow = Gated()
    hub = _hub({"slow": slow})
    _play_to_gated(hub, slow, 100)
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

    hub = _hub({"watching": Watching()}, watching=DeliveryConfig(queue_size=4))
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
    hub = _hub({"slow": slow}, slow=DeliveryConfig(mode="latest"))
    _play_to_gated(hub, slow, 50)
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
    hub = _shut_hub({"disk": disk}, clock=clock)
    asked = Asked.of(hub, "disk")
    hub.open()
    _play(hub, 5)
    assert hub.drain(CLOSE_S)
    disk.full = True
    _play(hub, 7, first=6)
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
    hub = _shut_hub({"disk": disk}, clock=clock)
    hub.open()
    _play(hub, 5)
    disk.full = True
    _play(hub, 6, first=6)
    clock.now += 0.125
    _play(hub, 7, first=7)
    disk.full = False
    clock.now += 0.125
    _play(hub, 8, first=8)
    (report,) = hub.close(CloseReason.DONE, CLOSE_S)
    assert disk.refused == [100.0], "a full disk is not asked at once again"
    assert disk.lines == [1, 2, 3, 4, 5, 8]
    assert (report.state, report.delivered, report.lost) == ("closed", 6, 2)


def test_faults_are_told_to_the_other_sinks_by_name_distribution_and_version(eventually: Eventually) -> None:
    good = RecordingSink()
    config = EsperConfig(sinks=())
    session = Session(config, selection=Selection(sinks=()), install_signal_handlers=False)
    session.active = [_active(Raising(), "raising"), _active(good, "good")]
    with session:
        session.emitter.emit_run_started(RunStarted(environment="x"))
        for number in range(1, 9):
            session.emitter.emit_ppo_update(make_update(number))
            eventually(lambda: all(report.queued == 0 for report in session.statuses()))
        session.finish(RunState.DONE, "8 updates")
    told = [event.payload for event in good.events if event.kind == "sink_status_changed"]
    assert told[-1].state == "disabled"
    assert (told[-1].sink, told[-1].distribution, told[-1].version) == ("raising", "esper-sink-raising", "1.0")
    assert good.kinds[-1] == "run_finished"
    assert good.events[-1].payload.lost[0].sink == "raising"
    assert session.report.lost_total == 8
    (line,) = session.report.lines()
    assert line.startswith("sink raising (esper-sink-raising 1.0) disabled: 0 delivered, 8 lost, 5 failures: ")


def test_every_sink_hears_the_end_before_any_is_closed() -> None:
    order: list[str] = []

    class Ending:
        def __init__(self, name: str, delivery: str) -> None:
            self.name = name
            self.delivery = delivery

        @hookimpl
        def esper_run_finished(self, event: Any) -> None:
            order.append(f"{self.name} finished")

        @hookimpl
        def esper_sink_closed(self, reason: CloseReason) -> None:
            order.append(f"{self.name} closed")

    session = Session(EsperConfig(sinks=()), selection=Selection(sinks=()), install_signal_handlers=False)
    session.active = [_active(Ending("a", "inline"), "a"), _active(Ending("b", "inline"), "b")]
    with session:
        session.emitter.emit_run_started(RunStarted(environment="x"))
    assert order[:2] == ["a finished", "b finished"]
    assert sorted(order[2:]) == ["a closed", "b closed"]


def test_a_sink_that_does_not_open_ends_the_start_or_is_left_out() -> None:
    class Shut:
        @hookimpl
        def esper_sink_opened(self, context: SinkContext) -> None:
            raise PermissionError(13, "Permission denied")

        @hookimpl
        def esper_ppo_updated(self, event: Any) -> None:
            """Never called."""

    with pytest.raises(SinkError, match=r'sink "shut" \(esper-sink-shut 1.0\) did not open: PermissionError'):
        _hub({"shut": Shut()})
    hub = Hub([_active(Shut(), "shut", named=False)], SinkContext(run_id="r"))
    (notice,) = hub.open()
    assert notice.endswith("going on without it")
    _play(hub, 3)
    (report,) = hub.close(CloseReason.DONE, 1.0)
    assert (report.state, report.delivered, report.lost) == ("disabled", 0, 3)


def test_ctrl_c_ends_the_closing_at_once_and_still_names_who_was_late(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = HungClose()
    hub = _hub({"hung": hung, "good": RecordingSink()})
    asked: list[float] = []

    def interrupt(_: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(hub._channels["good"], "closed", lambda _: True)
    late = hub._channels["hung"]
    original = late.closed

    def closed(seconds: float) -> bool:
        asked.append(seconds)
        return original(seconds) if len(asked) > 1 else interrupt(seconds)

    monkeypatch.setattr(late, "closed", closed)
    with pytest.raises(KeyboardInterrupt):
        hub.close(CloseReason.DONE, CLOSE_S)
    assert asked[0] > 0
    assert asked[1:] == [0], "asked once more whether it is closed, and not waited for"
    hung.gate.set()
    assert {report.name for report in hub.statuses() if report.cut_off} == {"hung"}

"""Raising, slow, hung and exiting sinks, with real threads: everyone else receives everything, in order, in time."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from esper_core.config.schema import DeliveryConfig, EsperConfig
from esper_core.errors import SinkError
from esper_core.events import EpisodeFinished, RunStarted
from esper_core.health import RunState
from esper_core.hooks import CloseReason, SinkContext, hookimpl
from esper_core.host.deliver.hub import ActiveSink, Hub
from esper_core.host.load.discovery import LoadedSink
from esper_core.host.load.inspection import inspect_sink
from esper_core.host.load.selection import Selection
from esper_core.host.session import Session
from esper_core.testing import RecordingSink, make_event, make_update

UPDATES = 60


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


class Hung:
    def __init__(self) -> None:
        self.release = threading.Event()

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        self.release.wait(60)


class HungClose:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        """Take it."""

    @hookimpl
    def esper_sink_closed(self, reason: CloseReason) -> None:
        time.sleep(60)


class Slow:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.seen: list[int] = []

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        time.sleep(self.seconds)
        self.seen.append(event.payload.update_id)


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


def _hub(sinks: dict[str, object], **delivery: DeliveryConfig) -> Hub:
    hub = Hub([_active(sink, name) for name, sink in sinks.items()], SinkContext(run_id="r"), delivery)
    hub.open()
    return hub


def _play(hub: Hub, count: int = UPDATES, *, pause_s: float = 0.0) -> list[float]:
    """Emit updates; the seconds that each took the emitter."""
    spent = []
    for number in range(1, count + 1):
        event = make_event(make_update(number))
        begun = time.perf_counter()
        hub.hooks.esper_ppo_updated(event=event)
        spent.append(time.perf_counter() - begun)
        if pause_s:
            time.sleep(pause_s)
    return spent


def _ids(sink: RecordingSink) -> list[int]:
    return [event.payload.update_id for event in sink.events if event.kind == "ppo_updated"]


def test_a_crowd_of_bad_sinks_harms_no_good_one() -> None:
    good, inline = RecordingSink(), RecordingSink()
    inline.delivery = "inline"  # type: ignore[misc]  # a class attribute, for this instance only
    hung = Hung()
    hub = _hub(
        {
            "first": good,
            "raising": Raising(),
            "exiting": Exiting(),
            "inline-exiting": InlineExiting(),
            "hung": hung,
            "hung-close": HungClose(),
            "last": inline,
        }
    )
    _play(hub)
    begun = time.monotonic()
    reports = {report.name: report for report in hub.close(CloseReason.DONE, 0.6)}
    spent = time.monotonic() - begun
    assert 0.5 < spent < 1.2, "one deadline for all of them"
    assert _ids(good) == _ids(inline) == list(range(1, UPDATES + 1))
    assert (good.closed, inline.closed) == (CloseReason.DONE, CloseReason.DONE)
    assert {name for name, report in reports.items() if report.cut_off} == {"hung", "hung-close"}
    for name in ("raising", "exiting", "inline-exiting"):
        report = reports[name]
        assert (report.state, report.failures, report.delivered, report.lost) == ("disabled", 5, 0, UPDATES), name
    assert (reports["hung"].delivered, reports["hung"].lost) == (0, UPDATES)
    assert (reports["hung-close"].delivered, reports["hung-close"].lost) == (UPDATES, 0)
    assert (reports["first"].delivered, reports["first"].lost) == (UPDATES, 0)
    hung.release.set()


def test_the_emitter_waits_once_for_a_hung_sink_and_not_again() -> None:
    hung = Hung()
    hub = _hub({"hung": hung}, hung=DeliveryConfig(queue_size=4))
    spent = _play(hub, 40)
    waits = [seconds for seconds in spent if seconds > 0.03]
    assert len(waits) == 1
    assert 0.045 < waits[0] < 0.2
    (report,) = hub.close(CloseReason.DONE, 0.1)
    assert report.lost == 40, "36 displaced, 3 or 4 in the queue, one in hand"
    hung.release.set()


def test_a_slow_sink_loses_exactly_what_is_counted_and_keeps_the_order() -> None:
    slow = Slow(0.01)
    hub = _hub({"slow": slow}, slow=DeliveryConfig(queue_size=5))
    _play(hub, 50)
    assert hub.drain(2.0)
    (report,) = hub.close(CloseReason.DONE, 1.0)
    assert slow.seen == sorted(slow.seen)
    assert slow.seen[-1] == 50, "the newest survives"
    assert report.delivered == len(slow.seen)
    assert report.delivered + report.lost == 50
    assert report.lost > 0
    assert [change.state for change in hub.drain_status()] == ["recovered"]


def test_a_slow_sink_that_is_merely_behind_loses_nothing() -> None:
    slow = Slow(0.002)
    hub = _hub({"slow": slow})
    spent = _play(hub, 100)
    assert max(spent) < 0.05
    (report,) = hub.close(CloseReason.DONE, 3.0)
    assert (report.delivered, report.lost, report.cut_off) == (100, 0, False)


def test_episodes_make_room_for_updates() -> None:
    hung = Hung()
    hung.release.clear()
    seen: list[str] = []

    class Watching:
        @hookimpl
        def esper_ppo_updated(self, event: Any) -> None:
            hung.release.wait(10)
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
    hung.release.set()
    (report,) = hub.close(CloseReason.DONE, 2.0)
    assert seen.count("ppo_updated") == 5
    assert report.delivered + report.lost == 11


def test_latest_shows_the_newest_and_counts_what_it_skipped_as_no_loss() -> None:
    slow = Slow(0.02)
    hub = _hub({"slow": slow}, slow=DeliveryConfig(mode="latest"))
    _play(hub, 50)
    (report,) = hub.close(CloseReason.DONE, 2.0)
    assert slow.seen[-1] == 50
    assert slow.seen == sorted(slow.seen)
    assert report.lost == 0
    assert report.delivered + report.coalesced == 50


def test_a_full_disk_backs_off_tries_again_and_loses_only_what_it_must() -> None:
    class Disk:
        full = False
        tries = 0

        def __init__(self) -> None:
            self.lines: list[int] = []

        @hookimpl
        def esper_ppo_updated(self, event: Any) -> None:
            self.tries += 1
            if self.full:
                raise OSError(28, "No space left on device")
            self.lines.append(event.payload.update_id)

    class InlineDisk(Disk):
        delivery = "inline"

    for disk in (Disk(), InlineDisk()):
        hub = _hub({"disk": disk})
        _play(hub, 5)
        hub.drain(1.0)
        disk.full = True
        hub.hooks.esper_ppo_updated(event=make_event(make_update(6)))
        time.sleep(0.05)
        tries = disk.tries
        assert tries == 6, "a full disk is not asked at once again"
        disk.full = False
        time.sleep(0.35)
        hub.hooks.esper_ppo_updated(event=make_event(make_update(7)))
        (report,) = hub.close(CloseReason.DONE, 2.0)
        assert report.state == "closed"
        assert report.delivered + report.lost == 7
        assert disk.lines[-1] == 7
        # A thread of its own keeps the event and tries again; the trainer's thread may not wait.
        assert report.lost == (1 if isinstance(disk, InlineDisk) else 0)


def test_faults_are_told_to_the_other_sinks_by_name_distribution_and_version() -> None:
    good = RecordingSink()
    config = EsperConfig(sinks=())
    session = Session(config, selection=Selection(sinks=()), install_signal_handlers=False)
    session.active = [_active(Raising(), "raising"), _active(good, "good")]
    with session:
        session.emitter.emit_run_started(RunStarted(environment="x"))
        for number in range(1, 9):
            session.emitter.emit_ppo_update(make_update(number))
            time.sleep(0.01)
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
    hub = _hub({"hung": HungClose(), "good": RecordingSink()})

    def interrupt(_: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(hub._channels["good"], "closed", lambda _: True)
    late = hub._channels["hung"]
    original = late.closed
    monkeypatch.setattr(late, "closed", lambda seconds: original(seconds) if seconds == 0 else interrupt(seconds))
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        hub.close(CloseReason.DONE, 30.0)
    assert time.monotonic() - begun < 1.0
    assert {report.name for report in hub.statuses() if report.cut_off} == {"hung"}

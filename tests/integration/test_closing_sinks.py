"""Sinks that open and close, with real threads: one deadline for all, and whoever is late is named.

Nothing here is timed. A sink is slow or hung until the test opens its gate, a back-off ends when the test's clock says
so, and deadlines guard against hanging alone.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from faulty_sinks import CLOSE_S, UPDATES, Clock, HungClose, active_sink, open_hub, play_updates

from esper_core.config.schema import EsperConfig
from esper_core.errors import SinkError
from esper_core.events import RunStarted
from esper_core.hooks import CloseReason, SinkContext, hookimpl
from esper_core.host.deliver.closing import Closable, close_together
from esper_core.host.deliver.hub import Hub
from esper_core.host.load.selection import Selection
from esper_core.host.session import Session
from esper_core.testing import RecordingSink

if TYPE_CHECKING:
    from collections.abc import Callable

    Eventually = Callable[[Callable[[], Any]], Any]


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
    hub = open_hub({"holding": holding, "hanging": hanging})
    play_updates(hub)
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
    session.active = [active_sink(Ending("a", "inline"), "a"), active_sink(Ending("b", "inline"), "b")]
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
        open_hub({"shut": Shut()})
    hub = Hub([active_sink(Shut(), "shut", named=False)], SinkContext(run_id="r"))
    (notice,) = hub.open()
    assert notice.endswith("going on without it")
    play_updates(hub, 3)
    (report,) = hub.close(CloseReason.DONE, 1.0)
    assert (report.state, report.delivered, report.lost) == ("disabled", 0, 3)


def test_ctrl_c_ends_the_closing_at_once_and_still_names_who_was_late(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = HungClose()
    hub = open_hub({"hung": hung, "good": RecordingSink()})
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

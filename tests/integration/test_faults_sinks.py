"""Raising, hung and exiting sinks, with real threads: everyone else receives everything, in order, in time.

Nothing here is timed. A sink is slow or hung until the test opens its gate, a back-off ends when the test's clock says
so, and deadlines guard against hanging alone.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from faulty_sinks import CLOSE_S, CUT_S, UPDATES, Gated, HungClose, Raising, active_sink, open_hub, play_updates

from esper_core.config.schema import EsperConfig
from esper_core.events import RunStarted
from esper_core.health import RunState
from esper_core.hooks import CloseReason, hookimpl
from esper_core.host.load.selection import Selection
from esper_core.host.session import Session
from esper_core.testing import RecordingSink, make_update

if TYPE_CHECKING:
    from collections.abc import Callable

    Eventually = Callable[[Callable[[], Any]], Any]


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
    hub = open_hub({"showing": showing, "writing": writing})
    play_updates(hub, 1)
    assert showing.shown.wait(CLOSE_S)
    hub.close(CloseReason.DONE, CLOSE_S)
    assert writing.first == [True]


def test_a_hook_that_only_returns_a_coroutine_delivers_nothing_and_says_so() -> None:
    beside = RecordingSink()
    hub = open_hub({"deferred": Deferred(), "beside": beside})
    play_updates(hub)
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
    hub = open_hub(
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
    play_updates(hub)
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


def test_faults_are_told_to_the_other_sinks_by_name_distribution_and_version(eventually: Eventually) -> None:
    good = RecordingSink()
    config = EsperConfig(sinks=())
    session = Session(config, selection=Selection(sinks=()), install_signal_handlers=False)
    session.active = [active_sink(Raising(), "raising"), active_sink(good, "good")]
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

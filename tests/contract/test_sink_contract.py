"""The contract itself: good sinks pass it, and each kind of bad sink fails the test that is about it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from esper_core.events import PAYLOADS
from esper_core.hooks import CloseReason, hookimpl
from esper_core.host.deliver.hub import EVENT_HOOKS
from esper_core.testing import RecordingSink, SinkContract, SinkHarness, make_event, make_update, one_of_each

if TYPE_CHECKING:
    from pathlib import Path


class TestRecordingSink(SinkContract):
    sink = RecordingSink


class InlineRecording(RecordingSink):
    delivery = "inline"


class TestInlineSink(SinkContract):
    sink = InlineRecording


class LatestRecording(RecordingSink):
    delivery = "latest"


class TestLatestSink(SinkContract):
    sink = LatestRecording


class Raising:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        _ = f"{event.payload.kl_divergence:.3f}"


class Busy:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        until = time.thread_time() + 0.01
        while time.thread_time() < until:
            pass


class Waiting:
    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        time.sleep(0.01)


class NeverCloses:
    released = threading.Event()

    @hookimpl
    def esper_ppo_updated(self, event: Any) -> None:
        """Take it."""

    @hookimpl
    def esper_sink_closed(self, reason: CloseReason) -> None:
        self.released.wait(250)


def _contract(cls: type, **attributes: Any) -> SinkContract:
    made: SinkContract = type("Made", (SinkContract,), {"sink": cls, **attributes})()
    return made


def test_a_sink_that_formats_none_fails_on_awkward_updates(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nothing failed or was lost"):
        _contract(Raising).test_it_takes_awkward_updates(tmp_path)


def test_a_sink_that_computes_long_fails_on_speed_and_one_that_waits_does_not(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"one update took 0\.01\d* s of CPU time"):
        _contract(Busy, call_limit_s=0.005).test_it_is_not_slow(tmp_path)
    _contract(Waiting, call_limit_s=0.005).test_it_is_not_slow(tmp_path)


def test_a_sink_that_does_not_close_fails_on_closing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"it closed within 0\.2 s"):
        _contract(NeverCloses, deadline_s=0.2).test_it_closes_without_an_event(tmp_path)
    NeverCloses.released.set()


def test_a_sink_that_takes_wrong_tables_fails_on_them(tmp_path: Path) -> None:
    class Lax(RecordingSink):
        class Config(msgspec.Struct):
            port: int = 1

    with pytest.raises(AssertionError, match=r"accepted: \{'port': 2\}"):
        _contract(Lax, bad_configs=({"port": 2},)).test_bad_tables_are_refused()


def test_the_harness_delivers_in_order_and_counts() -> None:
    with SinkHarness(RecordingSink) as harness:
        harness.send(*one_of_each())
        assert harness.drain()
    assert [event.kind for event in one_of_each()] == harness.sink.kinds
    assert (harness.report.delivered, harness.report.lost) == (len(PAYLOADS), 0)
    assert harness.sink.closed is CloseReason.DONE


def test_every_kind_of_event_has_a_hook_and_an_example() -> None:
    assert {f"esper_{kind}" for kind in PAYLOADS} == EVENT_HOOKS
    assert {event.kind for event in one_of_each()} == set(PAYLOADS)


def test_made_events_look_like_the_emitter_s() -> None:
    event = make_event(make_update(3))
    assert [span.name for span in event.trace.spans] == ["esper.iteration", "esper.rollout", "esper.ppo.update"]
    assert event.trace.own.end_ns == event.time_ns
    root = event.trace.spans[0]
    assert {span.parent_span_id for span in event.trace.spans[1:]} == {root.span_id}

"""Spans are completed and ended behind the loop: none is lost, none is bare, and what an SDK raises stays there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from present import attributes_of, present

from esper_core.emitter import EndedEvent, TelemetryEmitter
from esper_core.emitter._ends import LateSpanEnds
from esper_core.events import PPOUpdatePayload, RunFinished
from esper_core.health import RunState

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

BURST = 3 * LateSpanEnds.MOST


class Ended(SpanProcessor):
    """Keeps the name, the mark and the thread of every span that ends; raises when it is told to."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, object]] = []
        self.threads: set[str] = set()
        self.broken = False
        self.then: Callable[[], object] = int

    def on_end(self, span: ReadableSpan) -> None:
        self.threads.add(threading.current_thread().name)
        self.spans.append((span.name, attributes_of(span).get("mark")))
        if self.broken:
            raise RuntimeError("out of order")
        self.then()


class Emits:
    """Emits an event of its own, a number of times."""

    def __init__(self, emitter: TelemetryEmitter, times: int) -> None:
        self._emitter = emitter
        self.times = times

    def __call__(self) -> None:
        if self.times:
            self.times -= 1
            self._emitter.emit(RunFinished(state=RunState.DONE))


def mark(ended: EndedEvent) -> None:
    ended.span.set_attribute("mark", ended.attributes.get("esper.ppo.update_id", "end"))


def pair(complete: Callable[[EndedEvent], object] = mark) -> tuple[Ended, TelemetryEmitter]:
    ended = Ended()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ended)
    return ended, TelemetryEmitter(tracer=provider.get_tracer("t"), complete=complete, ends_later=True)


def update(emitter: TelemetryEmitter, number: int) -> None:
    emitter.begin_rollout(number)
    emitter.begin_update(number)
    emitter.emit_ppo_update(PPOUpdatePayload(update_id=number))


def test_every_span_of_a_burst_is_completed_and_ended_in_the_order_of_events() -> None:
    ended, emitter = pair()
    for number in range(1, BURST + 1):
        update(emitter, number)
    emitter.emit_run_finished(RunFinished(state=RunState.DONE))
    emitter.close()
    own = [(name, told) for name, told in ended.spans if name in {"esper.ppo.update", "esper.run.finished"}]
    assert own == [*(("esper.ppo.update", number) for number in range(1, BURST + 1)), ("esper.run.finished", "end")]
    assert len(ended.spans) == 3 * BURST + 1
    assert "esper-spans" in ended.threads
    assert "esper-spans" not in {thread.name for thread in threading.enumerate()}


def test_after_the_end_spans_end_at_once() -> None:
    ended, emitter = pair()
    update(emitter, 1)
    emitter.close()
    update(emitter, 2)
    assert [told for name, told in ended.spans if name == "esper.ppo.update"] == [1, 2]
    assert threading.current_thread().name in ended.threads


def test_what_an_sdk_raises_costs_no_other_span_and_no_update(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: EndedEvent) -> None:
        raise ValueError("no room")

    ended, emitter = pair(broken)
    ended.broken = True
    for number in (1, 2):
        update(emitter, number)
    emitter.close()
    assert [name for name, _ in ended.spans] == 2 * ["esper.ppo.update", "esper.rollout", "esper.iteration"]
    assert {present(record.exc_info)[0] for record in caplog.records} == {ValueError, RuntimeError}


def test_an_sdk_that_exits_ends_neither_the_thread_nor_the_other_spans(caplog: pytest.LogCaptureFixture) -> None:
    def leaves(ended: EndedEvent) -> None:
        if ended.attributes["esper.ppo.update_id"] == 1:
            raise SystemExit(3)

    ended, emitter = pair(leaves)
    for number in (1, 2, 3):
        update(emitter, number)
    emitter.close()
    assert len(ended.spans) == 9
    assert [present(record.exc_info)[0] for record in caplog.records] == [SystemExit]


def test_a_processor_that_emits_stops_nobody() -> None:
    ended, emitter = pair()
    emits = Emits(emitter, times=2)
    ended.then = emits
    for number in range(1, BURST + 1):
        update(emitter, number)
    emitter.close()
    names = [name for name, _ in ended.spans]
    assert (len(names), names.count("esper.run.finished"), emits.times) == (3 * BURST + 2, 2, 0)


def test_without_a_thread_spans_end_in_the_loop(
    no_thread: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    no_thread("esper-spans")
    ended, emitter = pair()
    for number in (1, 2):
        update(emitter, number)
    emitter.close()
    assert [told for name, told in ended.spans if name == "esper.ppo.update"] == [1, 2]
    assert caplog.messages == ["spans are ended in the training loop: can't start new thread"]


def test_the_end_waits_no_longer_for_a_processor_than_it_is_told_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()
    ended, emitter = pair(lambda _: go_on.wait(250))
    update(emitter, 1)
    update(emitter, 2)
    emitter.close(timeout_s=0.1)
    told = caplog.messages
    go_on.set()
    emitter.close(250)
    assert len(ended.spans) == 6
    assert len(told) == 1
    assert told[0].startswith("a span processor takes too long: ")


def test_a_forked_child_ends_no_span_of_its_parent() -> None:
    ended, emitter = pair()
    emitter.begin_rollout(1)
    emitter.begin_update(1)
    emitter.mute()
    emitter.emit_ppo_update(PPOUpdatePayload(update_id=1))
    emitter.close()
    assert ended.spans == []

"""The emitter opens the right spans, ends them at the event's time, and emits what it is given."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import Link, SpanContext, TraceFlags
from present import attributes_of, payloads_of, present

from esper_core.emitter import TelemetryEmitter
from esper_core.events import (
    EVENTS,
    EpisodeFinished,
    HeadStats,
    Payload,
    PolicyHealthChanged,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SinkStatusChanged,
    TelemetryEvent,
)
from esper_core.health import HealthLevel, KLLimits, RunState, classify_kl
from esper_core.hooks import SinkHooks

if TYPE_CHECKING:
    from collections.abc import Callable

H = HealthLevel


class Witness(SinkHooks):
    """Notes every event and the span that was current when it came."""

    def __init__(self) -> None:
        self.events: list[TelemetryEvent[Payload]] = []
        self.current: list[str] = []


def _note(self: Witness, event: TelemetryEvent[Payload]) -> None:
    self.events.append(event)
    self.current.append(f"{otel_trace.get_current_span().get_span_context().span_id:016x}")


for _spec in EVENTS.values():
    setattr(Witness, _spec.hook, _note)


class Sdk:
    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("esper_core")

    def finished(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


def ticking(step_ns: int = 1_000_000_000) -> Callable[[], int]:
    moments = itertools.count(1_000_000_000, step_ns)
    return lambda: next(moments)


def emit(
    emitter: TelemetryEmitter, number: int = 1, kl: float | None = 0.001, **more: Any
) -> TelemetryEvent[PPOUpdatePayload]:
    emitter.begin_rollout(number)
    emitter.begin_update(number)
    fields: dict[str, Any] = {"kl_divergence": kl, "health": classify_kl(kl)} | more
    return emitter.emit_ppo_update(PPOUpdatePayload(update_id=number, **fields))


# --- without an SDK -----------------------------------------------------------------------------


def test_an_update_stands_for_its_iteration_rollout_and_update() -> None:
    witness = Witness()
    event = emit(TelemetryEmitter(witness, run_id="run", attempt=2, rank=3, clock_ns=ticking()))
    iteration, rollout, own = event.trace.spans
    assert [span.name for span in event.trace.spans] == ["esper.iteration", "esper.rollout", "esper.ppo.update"]
    assert (iteration.parent_span_id, rollout.parent_span_id, own.parent_span_id) == (
        None,
        iteration.span_id,
        iteration.span_id,
    )
    assert iteration.start_ns == rollout.start_ns < rollout.end_ns == own.start_ns < own.end_ns == iteration.end_ns
    assert event.time_ns == own.end_ns
    assert (event.run_id, event.attempt, event.rank, event.kind) == ("run", 2, 3, "ppo_updated")
    assert witness.events == [event]


def test_ids_are_hex_unique_and_never_zero() -> None:
    emitter = TelemetryEmitter(Witness())
    events = [emit(emitter, number) for number in range(1, 30)]
    spans = [span.span_id for event in events for span in event.trace.spans]
    assert len(set(spans)) == len(spans) == 3 * len(events)
    assert len({event.trace.trace_id for event in events}) == len(events)
    assert all(len(span) == 16 and int(span, 16) for span in spans)
    assert all(len(event.trace.trace_id) == 32 and int(event.trace.trace_id, 16) for event in events)


def test_the_times_are_known_before_the_event_and_are_its_spans() -> None:
    emitter = TelemetryEmitter(Witness(), clock_ns=ticking())
    emitter.begin_rollout(1)
    emitter.begin_update(1)
    times = emitter.end_update(1)
    assert (times.rollout_s, times.update_s, times.rate(100), times.rate(0)) == (1.0, 1.0, 50.0, None)
    event = emitter.emit_ppo_update(PPOUpdatePayload(update_id=1))
    _, rollout, own = event.trace.spans
    assert (rollout.end_ns - rollout.start_ns, own.end_ns - own.start_ns) == (1_000_000_000, 1_000_000_000)
    assert event.time_ns == own.end_ns


def test_a_payload_is_emitted_as_it_is() -> None:
    payload = PPOUpdatePayload(update_id=1, kl_divergence=0.05, health=H.HEALTHY, update_s=7.0)
    assert TelemetryEmitter(Witness()).emit_ppo_update(payload).payload is payload


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"kl_divergence": 0.001}, H.HEALTHY),
        ({"kl_divergence": 0.5}, H.CRITICAL),
        ({"kl_divergence": 0.001, "kl_joint": float("nan")}, H.NON_FINITE),
        ({"non_finite": 1}, H.NON_FINITE),
        ({"kl_divergence": 0.5, "kl_measured": "in_loop"}, H.UNKNOWN),
        ({}, H.UNKNOWN),
    ],
)
def test_an_update_without_a_level_gets_that_of_its_kl(fields: dict[str, Any], level: HealthLevel) -> None:
    emitter = TelemetryEmitter(Witness())
    event = emitter.emit_ppo_update(PPOUpdatePayload(update_id=1, **fields))
    assert event.payload.health is level
    assert present(emitter.emit_run_finished(RunFinished(state=RunState.DONE))).payload.health is level


def test_that_level_is_by_the_limits_of_the_run() -> None:
    emitter = TelemetryEmitter(Witness(), limits=KLLimits(on="joint", warning=0.1, critical=0.2))
    payload = PPOUpdatePayload(update_id=1, kl_divergence=0.5, kl_joint=0.15)
    assert emitter.emit_ppo_update(payload).payload.health is H.WARNING


def test_an_update_in_a_loop_of_ones_own_needs_no_rollout() -> None:
    emitter = TelemetryEmitter(Witness(), clock_ns=ticking())
    times = emitter.end_update(1)
    event = emitter.emit_ppo_update(PPOUpdatePayload(update_id=1))
    assert [span.name for span in event.trace.spans] == ["esper.ppo.update"]
    assert event.trace.own.parent_span_id is None
    assert (times.rollout_s, times.update_s) == (None, 1.0)


def test_without_hooks_nothing_happens_and_the_event_is_returned() -> None:
    emitter = TelemetryEmitter()
    assert present(emitter.emit_run_started(RunStarted(environment="E"))).payload.environment == "E"
    assert emit(emitter).payload.health is H.HEALTHY
    assert present(emitter.emit_run_finished(RunFinished(state=RunState.DONE))).payload.health is H.HEALTHY


def test_under_an_applications_span_without_our_sdk_the_ids_are_our_own() -> None:
    """The API's no-op tracer returns the enclosing span: its id must not be used for our three spans."""
    context = SpanContext(trace_id=5, span_id=7, is_remote=False, trace_flags=TraceFlags(1))
    with otel_trace.use_span(otel_trace.NonRecordingSpan(context)):
        event = emit(TelemetryEmitter(Witness()))
    ids = {span.span_id for span in event.trace.spans}
    assert len(ids) == 3
    assert f"{7:016x}" not in ids


# --- with an SDK --------------------------------------------------------------------------------


def test_the_sdks_spans_carry_the_events_ids_and_times_and_end_after_the_hooks() -> None:
    sdk, witness = Sdk(), Witness()
    event = emit(TelemetryEmitter(witness, tracer=sdk.tracer))
    finished = sdk.finished()
    for span in event.trace.spans:
        exported = finished[span.name]
        context = present(exported.get_span_context())
        assert f"{context.trace_id:032x}" == event.trace.trace_id
        assert f"{context.span_id:016x}" == span.span_id
        assert (exported.start_time, exported.end_time) == (span.start_ns, span.end_ns)
        assert attributes_of(exported)["esper.ppo.update_id"] == 1
    assert witness.current == [event.trace.own.span_id]  # hooks ran inside the update's own span


OUTER = Link(SpanContext(trace_id=5, span_id=7, is_remote=True, trace_flags=TraceFlags(1)))


def test_a_link_stands_on_every_span_that_begins_a_trace_and_nowhere_else() -> None:
    sdk = Sdk()
    emitter = TelemetryEmitter(Witness(), tracer=sdk.tracer, links=[OUTER])
    emitter.emit_run_started(RunStarted(environment="e"))
    emit(emitter)
    assert {name: len(span.links) for name, span in sdk.finished().items()} == {
        "esper.run.started": 1,
        "esper.iteration": 1,
        "esper.rollout": 0,
        "esper.ppo.update": 0,
    }


def test_a_rank_that_withholds_updates_still_spans_its_start_end_and_episodes() -> None:
    sdk, witness = Sdk(), Witness()
    emitter = TelemetryEmitter(witness, rank=1, tracer=sdk.tracer, links=[OUTER], episode_spans=True)
    emitter.withhold_updates()
    emitter.emit_run_started(RunStarted(environment="e"))
    emitter.begin_rollout(1)
    emitter.emit_episode_finished(EpisodeFinished(episode=1, episode_return=1.0, length=1))
    emitter.begin_update(1)
    emitter.emit_ppo_update(PPOUpdatePayload(update_id=1))
    emitter.emit_run_finished(RunFinished(state=RunState.DONE))
    finished = sdk.finished()
    assert {name: len(span.links) for name, span in finished.items()} == {
        "esper.run.started": 1,
        "esper.episode": 1,
        "esper.run.finished": 1,
    }
    for event in witness.events:
        exported = finished[event.trace.own.name]
        assert f"{present(exported.get_span_context()).span_id:016x}" == event.trace.own.span_id
        assert event.trace.own.parent_span_id is None
        assert attributes_of(exported)["esper.rank"] == 1


def test_a_run_inside_an_applications_span_names_it_as_parent() -> None:
    sdk = Sdk()
    with sdk.tracer.start_as_current_span("app") as outer:
        event = emit(TelemetryEmitter(Witness(), tracer=sdk.tracer))
    assert event.trace.spans[0].parent_span_id == f"{outer.get_span_context().span_id:016x}"
    assert event.trace.trace_id == f"{outer.get_span_context().trace_id:032x}"


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF])
def test_events_are_whole_whatever_the_sampler_says(sampler: Sampler) -> None:
    witness = Witness()
    sdk = Sdk(sampler)
    emitter = TelemetryEmitter(witness, tracer=sdk.tracer)
    for number in (1, 2):
        event = emit(emitter, number)
        assert [span.name for span in event.trace.spans] == ["esper.iteration", "esper.rollout", "esper.ppo.update"]
        assert len({span.span_id for span in event.trace.spans}) == 3
    assert len(sdk.finished()) == (3 if sampler is ALWAYS_ON else 0)


def test_a_rollout_that_is_given_up_still_ends_its_spans() -> None:
    sdk = Sdk()
    emitter = TelemetryEmitter(Witness(), tracer=sdk.tracer)
    emitter.begin_rollout(1)
    emitter.emit_run_finished(RunFinished(state=RunState.STOPPED))
    assert set(sdk.finished()) == {"esper.iteration", "esper.rollout", "esper.run.finished"}


def test_a_hook_that_raises_still_leaves_the_next_update_whole() -> None:
    """The host guards hooks; should one raise all the same, the spans of the next iteration are fresh."""

    class Broken(SinkHooks):
        def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
            raise RuntimeError("broken")

    emitter = TelemetryEmitter(Broken())
    with pytest.raises(RuntimeError):
        emit(emitter, 1)
    emitter._hooks = witness = Witness()
    event = emit(emitter, 2)
    assert len(event.trace.spans) == 3
    assert witness.events == [event]


# --- episodes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [False, True])
def test_an_episode_has_an_sdk_span_only_on_request_and_an_event_always(*, wanted: bool) -> None:
    sdk, witness = Sdk(), Witness()
    emitter = TelemetryEmitter(witness, tracer=sdk.tracer, episode_spans=wanted)
    emitter.begin_rollout(1)
    event = present(emitter.emit_episode_finished(EpisodeFinished(episode=1, episode_return=2.0, length=3)))
    emitter.begin_update(1)
    update = emitter.emit_ppo_update(PPOUpdatePayload(update_id=1))
    assert event.trace.own.parent_span_id == update.trace.spans[1].span_id  # the rollout's
    assert event.trace.trace_id == update.trace.trace_id
    assert ("esper.episode" in sdk.finished()) is wanted


@pytest.mark.parametrize("behind", [False, True])
def test_many_episodes_are_told_as_one_is_and_before_whatever_is_emitted_next(*, behind: bool) -> None:
    sdk, witness = Sdk(), Witness()
    emitter = TelemetryEmitter(witness, tracer=sdk.tracer, episode_spans=True, behind=behind)
    emitter.begin_rollout(1)
    emitter.emit_episodes(EpisodeFinished(episode=number, episode_return=2.0, length=3) for number in (1, 2))
    emitter.emit_episodes((EpisodeFinished(episode=3, episode_return=2.0, length=3),))
    emitter.begin_update(1)
    update = emitter.emit_ppo_update(PPOUpdatePayload(update_id=1))
    *episodes, last = witness.events
    assert last == update
    assert [item.episode for item in payloads_of(EpisodeFinished, episodes)] == [1, 2, 3]
    assert {event.trace.own.parent_span_id for event in episodes} == {update.trace.spans[1].span_id}
    assert witness.current == [event.trace.own.span_id for event in witness.events]
    assert sdk.finished()["esper.episode"]
    emitter.emit_episodes((EpisodeFinished(episode=4, episode_return=2.0, length=3),))
    emitter.close()
    assert payloads_of(EpisodeFinished, witness.events[-1:])[0].episode == 4
    emitter.emit_episodes((EpisodeFinished(episode=5, episode_return=2.0, length=3),))  # after the end, in this thread
    assert payloads_of(EpisodeFinished, witness.events[-1:])[0].episode == 5


def test_without_a_thread_episodes_are_told_in_the_loop(no_thread: Callable[[str], None]) -> None:
    no_thread("esper-episodes")
    witness = Witness()
    emitter = TelemetryEmitter(witness, behind=True)
    emitter.emit_episodes(EpisodeFinished(episode=number, episode_return=2.0, length=3) for number in (1, 2))
    emit(emitter)
    emitter.close()
    assert [event.payload.kind for event in witness.events] == [*2 * [EpisodeFinished.kind], PPOUpdatePayload.kind]


def test_a_hook_that_raises_in_the_episodes_thread_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))

    class Broken(Witness):
        def esper_episode_finished(self, event: object) -> None:
            raise RuntimeError("out of order")

    emitter = TelemetryEmitter(Broken(), behind=True)
    emitter.emit_episodes((EpisodeFinished(episode=1, episode_return=2.0, length=3),))
    emit(emitter)
    assert [str(error) for error in raised] == ["out of order"]
    emitter.close()


# --- health -------------------------------------------------------------------------------------


def test_a_change_of_the_policys_level_follows_the_update_that_made_it() -> None:
    sdk, witness = Sdk(), Witness()
    emitter = TelemetryEmitter(witness, tracer=sdk.tracer)
    heads = (HeadStats(name="slot", share=0.8), HeadStats(name="tempo", share=0.2))
    for number, kl in enumerate((0.001, 0.02, 0.05, 0.001, 0.001, 0.001), start=1):
        emit(emitter, number, kl, heads=heads)
    changes = [event for event in witness.events if isinstance(event.payload, PolicyHealthChanged)]
    told = payloads_of(PolicyHealthChanged, changes)
    assert [(payload.previous, payload.current, payload.update_id) for payload in told] == [
        (H.HEALTHY, H.WARNING, 2),
        (H.WARNING, H.CRITICAL, 3),
        (H.CRITICAL, H.HEALTHY, 6),
    ]
    assert told[0].kl_divergence == 0.02
    assert told[0].head == "slot"
    by_id = {event.payload.update_id: event for event in witness.events if isinstance(event.payload, PPOUpdatePayload)}
    for change, payload in zip(changes, told, strict=True):
        update = by_id[payload.update_id]
        assert change.trace.own.parent_span_id == update.trace.own.span_id
        assert change.trace.trace_id == update.trace.trace_id
        assert change.time_ns == update.time_ns
        assert witness.events.index(change) == witness.events.index(update) + 1


def test_the_end_of_the_run_tells_the_policys_level_unless_it_was_given() -> None:
    emitter = TelemetryEmitter(Witness())
    emit(emitter, 1, 0.02)
    assert present(emitter.emit_run_finished(RunFinished(state=RunState.DONE))).payload.health is H.WARNING
    given = RunFinished(state=RunState.DONE, health=H.CRITICAL)
    assert present(emitter.emit_run_finished(given)).payload.health is H.CRITICAL


# --- status of sinks ----------------------------------------------------------------------------


def test_what_other_threads_saw_of_sinks_is_emitted_with_the_next_update_and_before_the_end() -> None:
    pending = [SinkStatusChanged(sink="otlp", state="failing")]

    def drain() -> list[SinkStatusChanged]:
        found = list(pending)
        pending.clear()
        return found

    witness = Witness()
    emitter = TelemetryEmitter(witness, drain_status=drain)
    emit(emitter)
    pending.append(SinkStatusChanged(sink="otlp", state="recovered"))
    emitter.emit_run_finished(RunFinished(state=RunState.DONE))
    assert [event.kind for event in witness.events] == [
        "ppo_updated",
        "sink_status_changed",
        "sink_status_changed",
        "run_finished",
    ]


def test_emitting_leaves_the_random_generators_alone() -> None:
    import random

    before = random.getstate()
    emitter = TelemetryEmitter(Witness())
    emit(emitter)
    emitter.emit_run_started(RunStarted(environment="E"))

    assert random.getstate() == before

"""TelemetryEmitter: the only telemetry interface that the agent and the trainer use.

It opens the spans, fixes their end time, wraps payloads in events, calls the hooks inside the event's own span, and
then ends the spans with the fixed end time; in a session a thread does that last part. So the spans that the SDK
exports and the lines that the journal writes carry the same ids, times and attributes. Without an SDK the spans are
no-ops without cost, and Esper generates the ids.

Only the trainer's thread emits. The host guards the hooks: nothing here raises when a sink fails.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from esper_core.emitter._behind import Behind
from esper_core.emitter._ends import EndedEvent, LateSpanEnds, SpanEnds
from esper_core.emitter._spans import OpenSpan, SpanOpener, UpdateTimes, inside
from esper_core.events import (
    EVENTS,
    EpisodeFinished,
    EventKind,
    Payload,
    PolicyHealthChanged,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SinkStatusChanged,
    TelemetryEvent,
    TraceRef,
)
from esper_core.health import DEFAULT_KL_LIMITS, HealthLevel, KLLimits, update_level
from esper_core.health.window import PolicyWindow
from esper_core.hooks import SinkHooks
from esper_core.semconv.attributes import ITERATION_SPAN, ROLLOUT_SPAN, SPAN_NAMES, common_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from opentelemetry.trace import Link, Tracer

__all__ = ["TelemetryEmitter"]

PayloadT = TypeVar("PayloadT", bound=Payload)
_UPDATE_SPAN: Final = SPAN_NAMES[PPOUpdatePayload.kind]


class TelemetryEmitter:
    """Builds events and calls the hooks with them, inside the events' spans.

    Args:
        hooks: the typed caller of the host's hub; the default calls no sink.
        run_id: the run.
        attempt: counts from 1.
        rank: the rank of this process.
        tracer: opens the spans; the default is a no-op.
        links: added to every span that begins a trace (a ``TRACEPARENT`` of the environment).
        episode_spans: give every finished episode a span of its own (``[otel] episodes``).
        drain_status: returns sink status changes that other threads observed; they are emitted with the next update.
        marked: marks every event as a test event (``esper sinks check``).
        heard: the kinds that a sink or observer receives; events of other kinds are not built, updates always are.
            None builds all.
        limits: the limits that this run's KL is judged by, when no window is given.
        window: the updates that the policy is judged over, with the limits: one that holds those of earlier attempts
            goes on from their level. The default is empty.
        complete: sets on an event's own span what the event tells, before that span ends (the instrumentation's).
        ends_later: complete and end spans from a thread, a moment after the hooks. :meth:`close` ends it.
        behind: tell the episodes of :meth:`emit_episodes` from a thread; the hooks must bear a call of it beside one of
            the emitting thread. :meth:`close` ends it.
        clock_ns: unix time in nanoseconds.
    """

    def __init__(
        self,
        hooks: SinkHooks | None = None,
        *,
        run_id: str = "unnamed",
        attempt: int = 1,
        rank: int = 0,
        tracer: Tracer | None = None,
        links: Iterable[Link] = (),
        episode_spans: bool = False,
        drain_status: Callable[[], Iterable[SinkStatusChanged]] | None = None,
        marked: bool = False,
        heard: Container[EventKind] | None = None,
        limits: KLLimits = DEFAULT_KL_LIMITS,
        window: PolicyWindow[PPOUpdatePayload] | None = None,
        complete: Callable[[EndedEvent], object] | None = None,
        ends_later: bool = False,
        behind: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._hooks = hooks if hooks is not None else SinkHooks()
        self._episode_spans = episode_spans
        self._drain_status = drain_status
        self._clock_ns = clock_ns
        self._marked = marked
        self._heard = heard
        self.window = window if window is not None else PolicyWindow[PPOUpdatePayload](limits)
        self.run_id = run_id
        self.attempt = attempt
        self.rank = rank
        self._spans = SpanOpener(tracer, links, common_attributes(run_id=run_id, attempt=attempt, rank=rank))
        self._ends = LateSpanEnds(complete) if ends_later else SpanEnds(complete)
        self._behind = Behind(self._tell_episode) if behind else None
        self._withheld = False
        self._iteration: OpenSpan | None = None
        self._rollout: OpenSpan | None = None
        self._update: OpenSpan | None = None

    @property
    def limits(self) -> KLLimits:
        """The limits that this run's KL is judged by; ``emit_run_started`` sends them."""
        return self.window.limits

    # --- the iteration's spans ----------------------------------------------------------------

    def begin_rollout(self, update_id: int) -> None:
        """Open the iteration's span, and in it the rollout's. ``update_id`` is the id of the next update."""
        self._abandon()
        now = self._clock_ns()
        self._iteration = self._spans.open(ITERATION_SPAN, None, now, update_id)
        self._rollout = self._spans.open(ROLLOUT_SPAN, self._iteration, now, update_id)

    def begin_update(self, update_id: int) -> None:
        """End the rollout's span and open the update's. A loop of your own may call it without ``begin_rollout``."""
        now = self._clock_ns()
        if self._rollout is not None and self._rollout.end_ns is None:
            self._rollout.end_ns = now  # it ends with its update
        if self._update is not None:
            self._update.end(now)
        self._update = self._spans.open(_UPDATE_SPAN, self._iteration, now, update_id)

    def end_update(self, update_id: int) -> UpdateTimes:
        """Fix the update's end time, and return the durations for its payload. Emitting the update ends the span."""
        own = self._own_update(update_id)
        end_ns = self._fixed_end(own)
        rollout_s = None
        if self._rollout is not None:
            rollout_s = ((self._rollout.end_ns or end_ns) - self._rollout.start_ns) / 1e9
        return UpdateTimes(rollout_s=rollout_s, update_s=(end_ns - own.start_ns) / 1e9)

    # --- events -------------------------------------------------------------------------------

    def emit_ppo_update(self, payload: PPOUpdatePayload) -> TelemetryEvent[PPOUpdatePayload]:
        """Emit an update, and end the iteration. ``UpdateRecorder`` builds its payload.

        The update's level is filled in when the payload has none; the rest of it is emitted unchanged.

        Returns:
            The event as every sink received it.
        """
        self._settle()
        payload = self._with_level(payload)
        own = self._own_update(payload.update_id)
        now = self._fixed_end(own)
        spans = [span for span in (self._iteration, self._rollout, own) if span is not None]
        event = self._event(payload, spans, now)
        previous = self.window.policy.level
        self.window.add(payload)  # before the hooks, which may ask for the level
        if not self._withheld:
            with inside(own.span):
                self._hooks.esper_ppo_updated(event=event)
            self._ends.put(event, spans[::-1], now)
            self._iteration = self._rollout = self._update = None
            self._emit_health_change(payload, previous, own, now)
        self._abandon(now)
        self.emit_pending_status()
        return event

    def emit(self, payload: PayloadT) -> TelemetryEvent[PayloadT] | None:
        """Emit an event of any kind but an update, with a span of no length.

        Returns:
            The event as every sink received it; None when no sink or observer receives its kind: it was not built.
        """
        self._settle()
        return self._emit(payload)

    def hears(self, kind: EventKind) -> bool:
        """Whether a sink or observer receives events of this kind. A payload of another kind need not be built."""
        return self._heard is None or kind in self._heard

    def emit_run_started(self, payload: RunStarted) -> TelemetryEvent[RunStarted] | None:
        """Emit the first event of an attempt, with the limits in force: those the updates are judged by, no others."""
        limits = self.limits
        return self.emit(replace(payload, kl_on=limits.on, kl_warning=limits.warning, kl_critical=limits.critical))

    def emit_episode_finished(self, payload: EpisodeFinished) -> TelemetryEvent[EpisodeFinished] | None:
        """Emit the end of one episode, with a span that an SDK exports only under ``episode_spans``."""
        self._settle()
        return self._emit(payload, parent=self._place_of_episodes())

    def emit_episodes(self, payloads: Iterable[EpisodeFinished]) -> None:
        """Emit the ends of episodes, each as :meth:`emit_episode_finished` does; of many, the cheap way.

        With ``behind`` it returns at once and a thread goes through the payloads; whatever is emitted next, an update,
        waits until they are told.
        """
        if not self.hears(EpisodeFinished.kind):
            return
        now, parent = self._clock_ns(), self._place_of_episodes()
        if self._behind is not None:
            self._behind.put(payloads, parent, now)
            return
        for payload in payloads:
            self._tell_episode(payload, parent, now)

    def emit_sink_status(self, payload: SinkStatusChanged) -> TelemetryEvent[SinkStatusChanged] | None:
        """Emit a change of a sink's status. For the emitting thread only; other threads use ``drain_status``."""
        return self.emit(payload)

    def emit_run_finished(self, payload: RunFinished) -> TelemetryEvent[RunFinished] | None:
        """Emit the last event of an attempt. The policy's level is filled in when the payload has none."""
        self._abandon()
        self.emit_pending_status()
        if payload.health is HealthLevel.UNKNOWN:
            payload = replace(payload, health=self.window.policy.level)
        return self.emit(payload)

    def emit_pending_status(self) -> None:
        """Emit the sink status changes that other threads observed since the last call."""
        if self._drain_status is not None:
            for status in self._drain_status():
                self.emit_sink_status(status)

    def withhold_updates(self) -> None:
        """Tell nobody of updates and of their spans from now on: rank 0 tells them for all ranks."""
        self._withheld = True
        self._spans.withhold_updates()

    def close(self, timeout_s: float = 10.0) -> None:
        """Tell the episodes and end the spans that wait, and end their threads. Events can still be emitted.

        Args:
            timeout_s: the longest wait for spans that an application's own processor is slow to take.
        """
        if self._behind is not None:
            self._behind.close()
            self._behind = None
        self._ends.close(timeout_s)

    def mute(self) -> None:
        """Emit nothing from now on: no hook is called, no span is opened or ended. For a forked child."""
        self._behind = None
        self._ends = SpanEnds(None)
        self._hooks = SinkHooks()
        self._spans.mute()
        self._drain_status = None
        self._heard = frozenset()
        self._update = self._rollout = self._iteration = None

    # --- inside -------------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._behind is not None:
            self._behind.settle()

    def _place_of_episodes(self) -> OpenSpan | None:
        return None if self._withheld else self._rollout

    def _tell_episode(self, payload: EpisodeFinished, parent: OpenSpan | None, now: int) -> None:
        self._emit(payload, parent=parent, now=now)

    def _own_update(self, update_id: int) -> OpenSpan:
        """The open update's span; opens one when ``begin_update`` was not called."""
        if self._update is None:
            self.begin_update(update_id)
        assert self._update is not None  # opened one line above  # noqa: S101
        return self._update

    def _fixed_end(self, own: OpenSpan) -> int:
        if own.end_ns is None:
            own.end_ns = self._clock_ns()
        return own.end_ns

    def _with_level(self, payload: PPOUpdatePayload) -> PPOUpdatePayload:
        """The payload with its own level: a KL of a loop of one's own is judged as the trainer's is."""
        if payload.health is not HealthLevel.UNKNOWN:
            return payload
        level = update_level(
            payload.kl_divergence,
            kl_joint=payload.kl_joint,
            non_finite=payload.non_finite,
            kl_measured=payload.kl_measured,
            limits=self.limits,
        )
        return payload if level is HealthLevel.UNKNOWN else replace(payload, health=level)

    def _emit_health_change(self, payload: PPOUpdatePayload, previous: HealthLevel, parent: OpenSpan, now: int) -> None:
        judged = self.window.policy
        level = judged.level
        if level is previous or (previous is HealthLevel.UNKNOWN and level is HealthLevel.HEALTHY):
            return
        named = judged.head if judged.head is not None else payload.leading_head
        change = PolicyHealthChanged(
            previous=previous,
            current=level,
            update_id=payload.update_id,
            kl_divergence=payload.kl_divergence,
            kl_joint=payload.kl_joint,
            head=named.name if named is not None else None,
        )
        self._emit(change, parent=parent, now=now)

    def _emit(
        self, payload: PayloadT, *, parent: OpenSpan | None = None, now: int | None = None
    ) -> TelemetryEvent[PayloadT] | None:
        """An event with a span of no length below ``parent``, current while the hook runs."""
        if not self.hears(payload.kind):
            return None
        spec = EVENTS[payload.kind]
        moment = self._clock_ns() if now is None else now
        hook = getattr(self._hooks, spec.hook)
        if spec.on_request and not self._episode_spans:
            event = self._event(payload, [self._spans.unrecorded(spec.span, parent, moment)], moment)
            hook(event=event)
            return event
        span = self._spans.open(spec.span, parent, moment)
        event = self._event(payload, [span], moment)
        with inside(span.span):
            hook(event=event)
        self._ends.put(event, (span,), moment)
        return event

    def _event(self, payload: PayloadT, spans: list[OpenSpan], now: int) -> TelemetryEvent[PayloadT]:
        trace = TraceRef(
            trace_id=spans[-1].trace_id, spans=tuple(span.ref(now) for span in spans), links=spans[0].links
        )
        return TelemetryEvent(
            time_ns=now,
            run_id=self.run_id,
            attempt=self.attempt,
            rank=self.rank,
            marked=self._marked,
            trace=trace,
            payload=payload,
        )

    def _abandon(self, end_ns: int | None = None) -> None:
        """End all open spans, children first."""
        now = self._clock_ns() if end_ns is None else end_ns
        for span in (self._update, self._rollout, self._iteration):
            if span is not None:
                span.end(now)
        self._update = self._rollout = self._iteration = None

"""Records updates under the names ``rl.*`` too, for backends that support them (``[otel] semconv = ["esper", "rl"]``).

Names and their source: :mod:`esper_core.semconv.rl`. They may change with the proposal; ``esper.*`` stays the canonical
set. The spans ``rl.loop``, ``rl.sample`` and ``rl.train`` are made when the update is emitted, with the times of
``esper.iteration``, ``esper.rollout`` and ``esper.ppo.update``, in the same trace, below ``esper.iteration``. They go
where spans go and are not in the journal, so a replay has none of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from opentelemetry import trace as otel_trace
from opentelemetry.metrics import CallbackOptions, Observation

from esper_core.semconv import rl
from esper_core.semconv.attributes import ROLLOUT_SPAN, int64
from esper_core.semconv.failure import ERROR_TYPE, failure
from esper_core.semconv.identity import SCHEMA_URL
from esper_core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import Counter, Histogram, Meter, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from esper_core.events import PPOUpdatePayload, RunStarted, SpanRef, TelemetryEvent
    from esper_core.instrumentation.metrics import ObservedRuns
    from esper_core.semconv.attributes import AttributeValue

__all__ = ["RLInstrumentation", "rl_resource"]

DURATION_BOUNDARIES: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_ALGORITHM: Final = "PPO"


def rl_resource(*, run_id: str, environment: str) -> dict[str, str]:
    """Resource attributes of the proposal that are known when a run starts."""
    return {
        rl.SYSTEM: "esper",
        rl.SYSTEM_VERSION: __version__,
        rl.RUN: run_id,
        rl.ALGORITHM: _ALGORITHM,
        rl.ENVIRONMENT: environment,
    }


class RLInstrumentation:
    """Records an update under the proposal's names.

    Args:
        provider: creates the instruments.
        runs: the runs whose last updates the gauges read.
        identity: run id, attempt and rank, attributes of every point and span.
        tracer_provider: makes the spans; the default is the application's global one.
    """

    def __init__(
        self,
        provider: MeterProvider,
        runs: ObservedRuns,
        identity: Mapping[str, AttributeValue],
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        meter = provider.get_meter(rl.SCOPE_NAME, __version__, schema_url=SCHEMA_URL)
        tracers = tracer_provider if tracer_provider is not None else otel_trace.get_tracer_provider()
        self._tracer = tracers.get_tracer(rl.SCOPE_NAME, __version__, schema_url=SCHEMA_URL)
        self._environment = ""
        self._identity = identity
        self._loop, self._sample, self._train = (
            _duration(meter, f"{name}.duration") for name in (rl.LOOP_SPAN, rl.SAMPLE_SPAN, rl.TRAIN_SPAN)
        )
        self._samples = _counter(meter, "rl.sample.samples")
        self._episodes = _counter(meter, "rl.sample.episodes")
        self._train_steps = _counter(meter, "rl.train.steps")
        if provider not in _provided:
            _provided.add(provider)
            _create_gauges(meter, runs)

    def run_started(self, event: TelemetryEvent[RunStarted], span: Span | None) -> None:
        """Store the environment's id, and set the run's attributes on its span."""
        self._environment = event.payload.environment
        if span is not None:
            span.set_attributes(rl_resource(run_id=event.run_id, environment=self._environment))

    def record(self, event: TelemetryEvent[PPOUpdatePayload], span: Span | None) -> None:
        """Record one update; ``span`` is the update's span when it is being recorded."""
        update = event.payload
        if span is not None:
            shared = self._attributes(event)
            span.set_attributes(shared)
            self._make_spans(event, shared, span)
        sample, train = update.rollout_s, update.update_s
        if sample is not None:
            self._sample.record(sample, self._identity)
        if train is not None:
            self._train.record(train, self._identity)
            self._loop.record(train + (sample or 0.0), self._identity)
        self._samples.add(update.steps + update.steps_forced, self._identity)
        self._episodes.add(update.episodes, self._identity)
        self._train_steps.add(update.minibatches, self._identity)

    def _attributes(self, event: TelemetryEvent[PPOUpdatePayload]) -> dict[str, AttributeValue]:
        return {
            rl.RUN: event.run_id,
            rl.ALGORITHM: _ALGORITHM,
            rl.ENVIRONMENT: self._environment,
            rl.ITERATION: int64(event.payload.update_id),
        }

    def _make_spans(
        self, event: TelemetryEvent[PPOUpdatePayload], shared: Mapping[str, AttributeValue], span: Span
    ) -> None:
        """The proposal's spans, already over: their times are those of the spans that the event stands for."""
        update, failed = event.payload, failure(event.payload)
        whole, own = event.trace.spans[0], event.trace.own
        rollout = next((item for item in event.trace.spans if item.name == ROLLOUT_SPAN), None)
        attributes: dict[str, AttributeValue] = {**self._identity, **shared}

        def begin(name: str, times: SpanRef, parent: Span, more: Mapping[str, AttributeValue]) -> Span:
            context = otel_trace.set_span_in_context(parent)
            return self._tracer.start_span(name, context, attributes={**attributes, **more}, start_time=times.start_ns)

        loop = begin(rl.LOOP_SPAN, whole, _outer(event, span), {})
        if rollout is not None:
            size = int64(update.steps + update.steps_forced)
            begin(rl.SAMPLE_SPAN, rollout, loop, {rl.BATCH_SIZE: size}).end(rollout.end_ns)
        train = begin(rl.TRAIN_SPAN, own, loop, {})
        for made, times in ((train, own), (loop, whole)):
            if failed is not None:
                made.set_attribute(ERROR_TYPE, failed.type)
                made.set_status(otel_trace.Status(otel_trace.StatusCode.ERROR, failed.message))
            made.end(times.end_ns)


def _outer(event: TelemetryEvent[PPOUpdatePayload], span: Span) -> Span:
    """The outermost span of the event, as a parent: ``esper.iteration``, or the update's own."""
    own = span.get_span_context()
    return otel_trace.NonRecordingSpan(
        otel_trace.SpanContext(
            trace_id=own.trace_id,
            span_id=int(event.trace.spans[0].span_id, 16),
            is_remote=False,
            trace_flags=own.trace_flags,
            trace_state=own.trace_state,
        )
    )


_provided: WeakSet[MeterProvider] = WeakSet()


def _duration(meter: Meter, name: str) -> Histogram:
    spec = rl.RL_METRICS[name]
    return meter.create_histogram(name, spec.unit, spec.brief, explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES)


def _counter(meter: Meter, name: str) -> Counter:
    spec = rl.RL_METRICS[name]
    return meter.create_counter(name, spec.unit, spec.brief)


def _create_gauges(meter: Meter, runs: ObservedRuns) -> None:
    def losses(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, {**run.identity, rl.LOSS_TYPE: kind})
            for run in runs
            for kind, name in rl.LOSSES
            if (value := getattr(run.update, name, None)) is not None and math.isfinite(value)
        ]

    def single(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(value, run.identity)
                for run in runs
                if (value := getattr(run.update, name, None)) is not None and math.isfinite(value)
            ]

        return observe

    for name, callback in (
        ("rl.train.loss", losses),
        ("rl.environment.reward.mean", single("return_mean_100")),
        ("rl.environment.episode.length.mean", single("episode_length_mean")),
    ):
        spec = rl.RL_METRICS[name]
        meter.create_observable_gauge(name, [callback], spec.unit, spec.brief)

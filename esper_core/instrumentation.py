"""Events as OpenTelemetry metrics, span attributes and span events, on the OpenTelemetry API alone.

An inline sink of the core's own: its hooks run in the trainer's thread inside the event's span. What is set here on
the span equals what the journal writes, because both come from ``semconv.attributes``. Only histograms are recorded at
once: last values and counts are observable instruments that read the last event and plain totals when a reader
collects (synchronous gauges would be most of the cost per update).

NaN and infinities never reach an instrument, because the SDK drops them with a log line: they are counted. Values are
plain floats and ints; payloads hold no tensors.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel_trace
from opentelemetry.context import Context

from esper_core import __version__
from esper_core.health import HEALTH_WINDOW, HealthLevel, RunState, verdict_level
from esper_core.hooks import hookimpl
from esper_core.semconv.attributes import common_attributes, shared_attributes, span_events
from esper_core.semconv.gauges import GaugePoint, gauge_points
from esper_core.semconv.names import METRICS, SCHEMA_URL
from esper_core.semconv.observed import SinkCounts, observed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import Histogram, Meter, MeterProvider
    from opentelemetry.trace import Span

    from esper_core.config.schema import OtelConfig
    from esper_core.events import (
        EpisodeFinished,
        PolicyHealthChanged,
        PPOUpdatePayload,
        RunFinished,
        RunStarted,
        SinkStatusChanged,
        TelemetryEvent,
    )

__all__ = ["DURATION_BOUNDARIES", "KL_BOUNDARIES", "SCOPE_NAME", "GaugePoint", "Instrumentation", "gauge_points"]

SCOPE_NAME: Final = "esper_core"
KL_BOUNDARIES: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.045, 0.1, 0.5)
"""Histogram boundaries in nats; they hold both limits of the verdict. The default ones start at 5."""
DURATION_BOUNDARIES: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Histogram boundaries in seconds."""

_WEIGHTED: Final = {"esper.ppo.kl.scope": "weighted"}
_JOINT: Final = {"esper.ppo.kl.scope": "joint"}
_NO_TRACE: Final = Context()
"""Without a current span no exemplar is taken: that of the KL leads to the update, and those of its heads and durations
would lead to the same one at a cost each."""


class Instrumentation:
    """Turns events into metrics and completes the spans that the emitter opened.

    Call its hooks from the emitting thread; readers may collect from any.

    Args:
        meter_provider: makes the instruments; the default is the application's global one, a no-op without an SDK.
        sdk_logger_provider: takes log events when ``config.events`` asks for them; the default is the global one.
        config: ``[otel]``.
        sink_status: current counts of every sink, called when a reader collects, in its thread.
    """

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        *,
        sdk_logger_provider: LoggerProvider | None = None,
        config: OtelConfig,
        sink_status: Callable[[], Iterable[SinkCounts]] | None = None,
    ) -> None:
        provider = meter_provider if meter_provider is not None else otel_metrics.get_meter_provider()
        meter = provider.get_meter(SCOPE_NAME, __version__, schema_url=SCHEMA_URL)
        self._kl = _histogram(meter, "esper.ppo.kl_divergence", KL_BOUNDARIES)
        self._head_kl = _histogram(meter, "esper.ppo.head.kl_divergence", KL_BOUNDARIES)
        self._rollout_duration = _histogram(meter, "esper.ppo.rollout.duration", DURATION_BOUNDARIES)
        self._update_duration = _histogram(meter, "esper.ppo.update.duration", DURATION_BOUNDARIES)
        self._observed = observed_of(provider, meter)
        self._observed.take_over(self, sink_status)
        self._levels: deque[HealthLevel] = deque(maxlen=HEALTH_WINDOW)
        self._on_span = config.events in {"span", "both"}
        self._log = None
        if config.events in {"log", "both"}:
            from esper_core.semconv.log_events import LogEvents  # noqa: PLC0415  # the unstable part of the API

            self._log = LogEvents(sdk_logger_provider, SCOPE_NAME, __version__, SCHEMA_URL)
        self._rl = None
        if "rl" in config.semconv:
            from esper_core.instrumentation_rl import RLInstrumentation  # noqa: PLC0415  # opt-in

            self._rl = RLInstrumentation(provider, self._observed)

    def set_run_status(
        self,
        *,
        heartbeat_s: float | None = None,
        progress_s: float | None = None,
        state: RunState | None = None,
    ) -> None:
        """Set what ``esper.run.*`` report; None leaves a value as it is. Cheap, any thread.

        Args:
            heartbeat_s: time of the last sign of life, unix seconds.
            progress_s: time of the last progress, unix seconds.
            state: what the run is doing.
        """
        if self._observed.owner is not self:
            return
        if heartbeat_s is not None:
            self._observed.heartbeat_s = heartbeat_s
        if progress_s is not None:
            self._observed.progress_s = progress_s
        if state is not None:
            self._observed.state = state

    def close(self) -> None:
        """Let go of everything the observable instruments read; later collections report nothing of this run."""
        if self._observed.owner is self:
            self._observed.take_over(None)

    # --- hooks --------------------------------------------------------------------------------

    @hookimpl
    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """Record the update's metrics and complete its span."""
        update = event.payload
        if self._observed.owner is self:
            self._levels.append(update.health)
            self._observed.update = update
            self._observed.level = verdict_level(tuple(self._levels))
        self._record(update)
        span = self._complete_span(event)
        found = span_events(event) if span is not None or self._log is not None else ()
        if span is not None and self._on_span:
            for item in found:
                span.add_event(item.name, item.attributes, item.time_ns)
        if self._log is not None:
            identity = common_attributes(run_id=event.run_id, attempt=event.attempt, rank=event.rank)
            identity["esper.ppo.update_id"] = update.update_id
            for item in found:
                self._log.emit(item, identity)
        if self._rl is not None:
            self._rl.record(event, span)

    @hookimpl
    def esper_run_started(self, event: TelemetryEvent[RunStarted]) -> None:
        """Complete the span."""
        span = self._complete_span(event)
        if self._rl is not None:
            self._rl.run_started(event, span)

    @hookimpl
    def esper_episode_finished(self, event: TelemetryEvent[EpisodeFinished]) -> None:
        """Complete the span, when the emitter opened one (``[otel] episodes``)."""
        self._complete_span(event)

    @hookimpl
    def esper_policy_health_changed(self, event: TelemetryEvent[PolicyHealthChanged]) -> None:
        """Complete the span."""
        self._complete_span(event)

    @hookimpl
    def esper_sink_status_changed(self, event: TelemetryEvent[SinkStatusChanged]) -> None:
        """Complete the span."""
        self._complete_span(event)

    @hookimpl
    def esper_run_finished(self, event: TelemetryEvent[RunFinished]) -> None:
        """Complete the span."""
        self._complete_span(event)

    # --- inside -------------------------------------------------------------------------------

    @staticmethod
    def _complete_span(event: TelemetryEvent[Any]) -> Span | None:
        """Set the event's attributes on its own span, when that is the current one and someone records it."""
        span = otel_trace.get_current_span()
        if not span.is_recording() or f"{span.get_span_context().span_id:016x}" != event.trace.own.span_id:
            return None
        span.set_attributes(shared_attributes(event))
        return span

    def _record(self, update: PPOUpdatePayload) -> None:
        _observe(self._kl, update.kl_divergence, _WEIGHTED)
        _observe(self._kl, update.kl_joint, _JOINT)
        for head in update.heads:
            _observe(self._head_kl, head.kl, {"esper.ppo.head.name": head.name}, _NO_TRACE)
        _observe(self._rollout_duration, update.rollout_s, None, _NO_TRACE)
        _observe(self._update_duration, update.update_s, None, _NO_TRACE)
        self._observed.totals.add(update)


def _histogram(meter: Meter, name: str, boundaries: tuple[float, ...]) -> Histogram:
    spec = METRICS[name]
    return meter.create_histogram(spec.name, spec.unit, spec.brief, explicit_bucket_boundaries_advisory=boundaries)


def _observe(
    histogram: Histogram,
    value: float | None,
    attributes: Mapping[str, str] | None = None,
    context: Context | None = None,
) -> None:
    """Record a finite value; estimators may round to just below 0, which a histogram refuses."""
    if value is not None and math.isfinite(value):
        histogram.record(max(value, 0.0), attributes, context)

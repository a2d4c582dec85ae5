"""Turns events into OpenTelemetry metrics, span attributes, span and log events; uses only the OpenTelemetry API.

An inline sink of the core: its hook runs in the trainer's thread inside the event's span, and stores. What is dear is
done by others. The emitter has the span completed when it ends it, in a thread; the attributes equal those that the
journal writes, because both come from ``semconv.attributes``. Every metric is recorded or computed when a reader
collects; the exemplars of the KL's histogram refer to the span of their update nevertheless.

NaN and infinities are never passed to an instrument, because the SDK drops them with a log line: they are counted
instead. Values are plain floats and ints; payloads hold no tensors.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel_trace

from esper_core.events import PolicyEvaluated, PPOUpdatePayload, RunStarted
from esper_core.health.window import PolicyWindow
from esper_core.hooks import hookimpl
from esper_core.instrumentation.metrics import SinkCounts, runs_of
from esper_core.semconv.attributes import common_attributes
from esper_core.semconv.failure import failure
from esper_core.semconv.identity import SCHEMA_URL, SCOPE_NAME
from esper_core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from esper_core.config.schema import OtelConfig
    from esper_core.emitter import EndedEvent
    from esper_core.events import TelemetryEvent
    from esper_core.health import RunState
    from esper_core.hooks import EventKinds
    from esper_core.instrumentation.system import SystemUse

__all__ = ["Instrumentation"]


class Instrumentation:
    """Turns events into metrics, and sets attributes and span events on the spans that the emitter opened.

    Call its hooks from the emitting thread, those of finished episodes from any; readers may collect from any. Give
    :meth:`complete` to the emitter, or no span has attributes, and there are no log events and no ``rl.*``.

    Args:
        meter_provider: creates the instruments; the default is the application's global one, a no-op without an SDK.
        sdk_logger_provider: receives log events when ``config.events`` selects them; the default is the global one.
        tracer_provider: makes the spans ``rl.*`` when ``config.semconv`` asks for them; the default is the global one.
        config: ``[otel]``.
        window: the updates that the policy is judged over, with the limits of the run until ``RunStarted`` tells them:
            the emitter's. The default is one of its own, with the default limits.
        sink_status: current counts of every sink, called when a reader collects, in its thread.
        run_id: the run; with ``attempt`` and ``rank`` an attribute of every metric point.
        attempt: counts from 1.
        rank: of this process.
    """

    event_kinds: ClassVar[EventKinds] = "recorded"
    any_thread: ClassVar[bool] = True

    def __init__(
        self,
        meter_provider: MeterProvider | None = None,
        *,
        sdk_logger_provider: LoggerProvider | None = None,
        tracer_provider: TracerProvider | None = None,
        config: OtelConfig,
        window: PolicyWindow[PPOUpdatePayload] | None = None,
        sink_status: Callable[[], Iterable[SinkCounts]] | None = None,
        run_id: str = "unnamed",
        attempt: int = 1,
        rank: int = 0,
    ) -> None:
        provider = meter_provider if meter_provider is not None else otel_metrics.get_meter_provider()
        meter = provider.get_meter(SCOPE_NAME, __version__, schema_url=SCHEMA_URL)
        identity = common_attributes(run_id=run_id, attempt=attempt, rank=rank)
        runs = runs_of(provider, meter)
        self._observed = runs.add(identity, sink_status)
        self._window = window if window is not None else PolicyWindow[PPOUpdatePayload]()
        self._observed.limits = self._window.limits
        self._on_span = config.events in {"span", "both"}
        self._log = None
        if config.events in {"log", "both"}:
            from esper_core.instrumentation.logs import LogEvents  # noqa: PLC0415  # the unstable part of the API

            self._log = LogEvents(sdk_logger_provider, SCOPE_NAME, __version__, SCHEMA_URL)
        self._rl = None
        if "rl" in config.semconv:
            from esper_core.instrumentation.rl import RLInstrumentation  # noqa: PLC0415  # opt-in

            self._rl = RLInstrumentation(provider, runs, identity, tracer_provider)

    def set_run_status(
        self,
        *,
        heartbeat_s: float | None = None,
        progress_s: float | None = None,
        state: RunState | None = None,
        system: SystemUse | None = None,
    ) -> None:
        """Set what ``esper.run.*`` and ``process.*`` report; None leaves a value unchanged. Any thread.

        Args:
            heartbeat_s: time of the last heartbeat, unix seconds.
            progress_s: time of the last progress, unix seconds.
            state: what the run is doing.
            system: what its process takes of the machine.
        """
        if system is not None:
            self._observed.system = system
        if heartbeat_s is not None:
            self._observed.heartbeat_s = heartbeat_s
        if progress_s is not None:
            self._observed.progress_s = progress_s
        self._observed.pending.drain()  # in the heartbeat's thread, so that it is not the emitting thread's to do
        # A heartbeat during the closing of the sinks still reports live: the final state stays.
        if state is not None and not (self._observed.state is not None and self._observed.state.ended):
            self._observed.state = state

    def close(self, sinks: Iterable[SinkCounts] = ()) -> None:
        """End the run: later collections still report its last values for a while.

        Args:
            sinks: final counts of every sink.
        """
        final = tuple(sinks)
        self._observed.sink_status = lambda: final
        self._observed.pending.drain()
        self._observed.ended_s = time.monotonic()

    # --- hooks --------------------------------------------------------------------------------

    @hookimpl
    def esper_event(self, event: TelemetryEvent[Any]) -> None:
        """Store what the metrics read: an update's and an evaluation's values, the limits."""
        payload = event.payload
        if isinstance(payload, PPOUpdatePayload):
            self._observed.update = payload
            self._observed.level = self._window.add(payload).level
            self._observed.pending.add(payload, otel_trace.get_current_span().get_span_context())
        elif isinstance(payload, PolicyEvaluated):
            self._observed.evaluation = payload
        elif isinstance(payload, RunStarted):
            self._window.limits = payload.limits
            self._observed.limits = payload.limits

    # --- when the event's span ends -----------------------------------------------------------

    def complete(self, ended: EndedEvent) -> None:
        """Set attributes and span events on the event's span, emit its log events, record it under ``rl.*``.

        The emitter calls it inside the span, just before that ends, in the thread that ends it.
        """
        event, span = ended.event, ended.span
        recorded = span if span.is_recording() else None
        if recorded is not None:
            self._complete_span(ended)
        if self._log is not None:
            self._log.emit(event)
        if self._rl is not None and isinstance(event.payload, PPOUpdatePayload):
            self._rl.record(event, recorded)
        if self._rl is not None and isinstance(event.payload, RunStarted):
            self._rl.run_started(event, recorded)
        self._observed.pending.relieve()

    def _complete_span(self, ended: EndedEvent) -> None:
        span = ended.span
        span.set_attributes(ended.attributes)
        failed = failure(ended.event.payload)
        if failed is not None:
            span.set_status(otel_trace.Status(otel_trace.StatusCode.ERROR, failed.message))
        if self._on_span:
            for item in ended.events:
                span.add_event(item.name, item.attributes, item.time_ns)

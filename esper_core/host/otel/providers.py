"""Sets up the OpenTelemetry SDK. Only this module and those beside it import the SDK, and only when it is needed.

Providers are built here and passed explicitly, never set globally. When an application has set its own provider, that
one is used: it exports the spans, metrics or log events and generates the ids. The processors and readers of sinks are
then not attached, and a notice at the start says so. Nothing is registered at exit: the host closes every processor and
reader within its one deadline. Log events have a provider and processors only if ``[otel] events`` asks for them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import _logs as otel_logs
from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel_trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from esper_core import ids
from esper_core.errors import EsperError, SinkError, error_text
from esper_core.host.otel.contribution import check_contribution
from esper_core.host.otel.resource import traceparent
from esper_core.host.otel.variables import check_variables, limit_notices
from esper_core.host.remedies import check_or_leave_out
from esper_core.masking import redact
from esper_core.semconv.identity import SCHEMA_URL, SCOPE_NAME
from esper_core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Link, Tracer, TracerProvider

    from esper_core.config.schema import OtelConfig
    from esper_core.host.deliver.guard import Guard
    from esper_core.host.deliver.hub import ActiveSink, Hub
    from esper_core.host.otel.log_records import GuardedLogProcessor
    from esper_core.host.otel.processors import GuardedReader, GuardedSpanProcessor
    from esper_core.host.otel.resource import ResourceValue
    from esper_core.reading.account import SinkAccount

__all__ = ["Providers"]

_SPAN_HOOK: Final = "esper_span_processors"
_METRIC_HOOK: Final = "esper_metric_readers"
_LOG_HOOK: Final = "esper_log_record_processors"


@dataclass
class Providers:
    """The providers that the emitter and the instrumentation use, and the processors and readers to close.

    Attributes:
        tracer_provider: None when no spans are made.
        meter_provider: None when no metrics are made.
        logger_provider: None when no log events are made.
        processors: the span processors of sinks, each with its guard.
        log_processors: the log record processors of sinks, each with its guard.
        readers: the metric readers of sinks, each with its guard.
        notices: lines to print at the start.
    """

    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None
    logger_provider: LoggerProvider | None = None
    processors: list[GuardedSpanProcessor] = field(default_factory=list)
    log_processors: list[GuardedLogProcessor] = field(default_factory=list)
    readers: list[GuardedReader] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    _resource: Resource | None = None

    @property
    def active(self) -> bool:
        """True when spans, metrics or log events are received by anyone."""
        return any(item is not None for item in (self.tracer_provider, self.meter_provider, self.logger_provider))

    @property
    def tracer(self) -> Tracer | None:
        """The run's tracer, or None."""
        if self.tracer_provider is None:
            return None
        return self.tracer_provider.get_tracer(SCOPE_NAME, __version__, schema_url=SCHEMA_URL)

    @property
    def links(self) -> tuple[Link, ...]:
        """The span that started this process, from ``TRACEPARENT``."""
        carrier = traceparent(os.environ)
        if not carrier:
            return ()
        outer = otel_trace.get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
        return (otel_trace.Link(outer),) if outer.is_valid else ()

    @property
    def closables(self) -> tuple[GuardedSpanProcessor | GuardedLogProcessor | GuardedReader, ...]:
        """The processors and readers to close within the deadline."""
        return (*self.processors, *self.log_processors, *self.readers)

    def in_child(self) -> None:
        """In a forked child: no span and no log record is delivered and nothing is collected."""
        for item in self.closables:
            item.in_child()

    def statuses(self) -> tuple[SinkAccount, ...]:
        """The counters of processors and readers."""
        return tuple(item.report() for item in self.closables)

    @classmethod
    def set_up(
        cls,
        sinks: Sequence[ActiveSink],
        hub: Hub,
        config: OtelConfig,
        resource: Mapping[str, ResourceValue],
        *,
        close_timeout_s: float = 3.0,
        patient: bool = False,
    ) -> Providers:
        """Collect the processors and readers of sinks, and build providers for them when there are any.

        Args:
            sinks: created sinks.
            hub: calls their hooks and creates the guards.
            config: ``[otel]``.
            resource: the resource of the run.
            close_timeout_s: the time limit passed to the readers' ``shutdown``.
            patient: True in a replay: no provider is built, and processors wait for room instead of dropping spans.

        Raises:
            SinkError: the SDK is missing, or a sink raised while it created its processors or readers.
            ConfigError: OpenTelemetry cannot use one of its variables.
        """
        made = cls()
        check_variables(os.environ, "api")
        hooks = {_SPAN_HOOK, _METRIC_HOOK} if config.events == "span" else {_SPAN_HOOK, _METRIC_HOOK, _LOG_HOOK}
        wanting = [sink for sink in sinks if sink.loaded.hooks & hooks]
        own_spans = made._adopt(config) if not patient else False
        if config.sdk == "never" or (config.sdk == "auto" and not wanting):
            made._say_what_is_not_carried(sinks, config)
            return made
        check_variables(os.environ, "sdk")
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            what = "no spans and no metrics" if config.events == "span" else "no spans, no metrics and no log events"
            made.notices.append(f"OTEL_SDK_DISABLED is set: {what} leave through OpenTelemetry")
            return made
        made._require_sdk(wanting, config)
        made._collect(wanting, hub, config, spans=not own_spans, close_timeout_s=close_timeout_s, patient=patient)
        made._say_what_is_not_carried(sinks, config)
        if not patient:
            made._build(resource, always=config.sdk == "always")
        return made

    # --- inside -------------------------------------------------------------------------------

    def _adopt(self, config: OtelConfig) -> bool:
        """Use the providers that the application has set; return True when its tracer provider is one of them."""
        tracers = otel_trace.get_tracer_provider()
        own = not isinstance(tracers, otel_trace.ProxyTracerProvider | otel_trace.NoOpTracerProvider)
        if own:
            self.tracer_provider = tracers
        meters = otel_metrics.get_meter_provider()
        if not isinstance(meters, otel_metrics.NoOpMeterProvider) and type(meters).__name__ != "_ProxyMeterProvider":
            self.meter_provider = meters
        if config.events != "span":
            loggers = otel_logs.get_logger_provider()
            if (
                not isinstance(loggers, otel_logs.NoOpLoggerProvider)
                and type(loggers).__name__ != "ProxyLoggerProvider"
            ):
                self.logger_provider = loggers
        return own

    def _require_sdk(self, wanting: Sequence[ActiveSink], config: OtelConfig) -> None:
        try:
            import opentelemetry.sdk.trace  # noqa: F401, PLC0415  # the SDK is optional and costs 60 ms
        except ImportError as error:
            who = ", ".join(sink.loaded.origin for sink in wanting) or f'[otel] sdk = "{config.sdk}"'
            raise SinkError(
                f"the OpenTelemetry SDK is not installed, but {who} needs it",
                hint='install it with `pip install "esper-core[otel]"`',
            ) from error

    def _collect(
        self,
        wanting: Sequence[ActiveSink],
        hub: Hub,
        config: OtelConfig,
        *,
        spans: bool,
        close_timeout_s: float,
        patient: bool,
    ) -> None:
        from esper_core.host.otel.processors import GuardedReader, GuardedSpanProcessor  # noqa: PLC0415  # needs the SDK

        for sink in wanting:
            loaded = sink.loaded
            if _SPAN_HOOK in loaded.hooks:
                if not spans:
                    self._say_adopted("tracer", "span processors", loaded.name)
                else:
                    self.processors += [
                        GuardedSpanProcessor(item, guard, patient=patient)
                        for item, guard in self._contributed(sink, hub, _SPAN_HOOK)
                    ]
            # A replay makes no measurements: readers would export empty batches.
            if _METRIC_HOOK in loaded.hooks and not patient:
                if self.meter_provider is not None:
                    self._say_adopted("meter", "metric readers", loaded.name)
                else:
                    self.readers += [
                        GuardedReader(item, guard, timeout_s=close_timeout_s)
                        for item, guard in self._contributed(sink, hub, _METRIC_HOOK)
                    ]
            if _LOG_HOOK in loaded.hooks and config.events != "span":
                self._collect_logs(sink, hub, patient=patient)

    def _collect_logs(self, sink: ActiveSink, hub: Hub, *, patient: bool) -> None:
        from esper_core.host.otel.log_records import GuardedLogProcessor  # noqa: PLC0415  # the SDK's unstable part

        if self.logger_provider is not None:
            self._say_adopted("logger", "log record processors", sink.loaded.name)
            return
        self.log_processors += [
            GuardedLogProcessor(item, guard, patient=patient) for item, guard in self._contributed(sink, hub, _LOG_HOOK)
        ]

    def _say_what_is_not_carried(self, sinks: Sequence[ActiveSink], config: OtelConfig) -> None:
        """Say which sinks bring spans and no log events, or the reverse, and what ``[otel] events`` keeps from them."""
        key = f'[otel] events = "{config.events}"'
        if config.events == "span":
            self.notices += [
                f'{key} makes no log events, and sink "{sink.loaded.name}" carries no others: '
                'set otel.events = "log" or "both"'
                for sink in sinks
                if _LOG_HOOK in sink.loaded.hooks and _SPAN_HOOK not in sink.loaded.hooks
            ]
            return
        with_spans, with_logs = (
            {item.guard.name.partition("/")[0] for item in found} for found in (self.processors, self.log_processors)
        )
        remedy = 'set otel.events = "span" or "both"' if config.events == "log" else 'set otel.events = "span"'
        what = "an update's events do not reach it" if config.events == "log" else "its spans alone have the events"
        self.notices += [
            f'sink "{sink.loaded.name}" carries no log events ({key}): {what}; {remedy}, or add a sink that does'
            for sink in sinks
            if sink.loaded.name in with_spans - with_logs and self.logger_provider is None
        ]
        if self.tracer_provider is not None and self.logger_provider is None and not self.log_processors:
            self.notices.append(
                f"{key}, but the application's own OpenTelemetry has no logger provider: log events reach nobody; "
                'set one, or otel.events = "span"'
            )

    def _say_adopted(self, kind: str, what: str, sink: str) -> None:
        self.notices.append(
            f'the application\'s own OpenTelemetry {kind} provider is in use: {what} of sink "{sink}" are not attached'
        )

    @staticmethod
    def _contributed(sink: ActiveSink, hub: Hub, hook: str) -> list[tuple[Any, Guard]]:
        """What a sink brings, each with a guard of its own."""
        loaded = sink.loaded
        try:
            found = hub.call(loaded.name, hook)
        except EsperError:
            raise  # the sink's own message, already written for the user
        except BaseException as error:  # a sink may raise anything, SystemExit included
            if isinstance(error, KeyboardInterrupt):
                raise
            raise SinkError(
                f"sink {loaded.origin} failed in {hook}: {redact(error_text(error))}",
                hint=check_or_leave_out(loaded.name),
            ) from error
        for item in found:
            check_contribution(item, loaded.origin, hook)
        return [
            (
                item,
                hub.guard(
                    f"{loaded.name}/{type(item).__name__}",
                    distribution=loaded.distribution,
                    version=loaded.version,
                    owner=loaded.owner,
                ),
            )
            for item in found
        ]

    def _build(self, resource: Mapping[str, ResourceValue], *, always: bool) -> None:
        from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider  # noqa: PLC0415  # optional SDK
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # optional SDK
        from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider  # noqa: PLC0415  # optional SDK
        from opentelemetry.sdk.trace.id_generator import IdGenerator  # noqa: PLC0415  # optional SDK

        class OwnIds(IdGenerator):
            """Generates ids without drawing from the training's random generators."""

            def generate_span_id(self) -> int:
                return ids.new_span_id()

            def generate_trace_id(self) -> int:
                return ids.new_trace_id()

        described = Resource.create(dict(resource))
        self._resource = described
        self.notices.extend(limit_notices(os.environ))
        if self.tracer_provider is None and (self.processors or always):
            check_variables(os.environ, "traces")
            tracers = SdkTracerProvider(resource=described, id_generator=OwnIds(), shutdown_on_exit=False)
            for processor in self.processors:
                tracers.add_span_processor(processor)
            self.tracer_provider = tracers
        if self.meter_provider is None and (self.readers or always):
            check_variables(os.environ, "metrics")
            inner = [reader.inner for reader in self.readers]
            try:
                self.meter_provider = SdkMeterProvider(metric_readers=inner, resource=described, shutdown_on_exit=False)
            except Exception as error:  # a reader is what a sink made it: of another provider, or given twice
                names = ", ".join(reader.guard.name for reader in self.readers)
                raise SinkError(
                    f"OpenTelemetry does not take the metric readers of {names}: {redact(error_text(error))}",
                    hint="give a reader of its own each time, and each once",
                ) from error
        if self.logger_provider is None and self.log_processors:
            from esper_core.host.otel.log_records import build_logger_provider  # noqa: PLC0415  # as above

            check_variables(os.environ, "logs")
            self.logger_provider = build_logger_provider(described, self.log_processors)

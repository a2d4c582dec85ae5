"""The sink: joins processors, readers, exporters and the host's hooks."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from esper_core.errors import ConfigError, SinkError
from esper_core.hooks import Delivery, SinkContext, hookimpl, redact
from esper_core.runs import JournalResources, RunDir
from esper_core.semconv.gauges import gauge_points
from esper_sink_otlp.check import check_words, not_rebuilt
from esper_sink_otlp.clock import clock_words
from esper_sink_otlp.config import OtlpConfig
from esper_sink_otlp.exporter import Exporter, StateChange
from esper_sink_otlp.metrics import MetricSource, UpdateReader
from esper_sink_otlp.sender import Sender
from esper_sink_otlp.settings import metric_settings, queue_settings, resolve
from esper_sink_otlp.spans import SpanQueue, span_source
from esper_sink_otlp.variables import check_proxies, check_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk._logs import LogRecordProcessor
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor

    from esper_core.events import PPOUpdatePayload, TelemetryEvent
    from esper_sink_otlp.answer import Answer
    from esper_sink_otlp.config import Signal
    from esper_sink_otlp.exporter import Source
    from esper_sink_otlp.settings import QueueSettings, SignalSettings

__all__ = ["OtlpSink"]

_UNITS: Final[Mapping[Signal, str]] = {"traces": "spans", "metrics": "updates' gauge points", "logs": "log events"}
"""What one item of a signal's account is, for people."""
_LATE_S: Final = 0.8
"""By how much the host's thread that closes a processor may begin later than the sink's: else its losses are untold."""


class OtlpSink:
    """Sends spans, metrics and log events over OTLP.

    Args:
        config: ``[sink.otlp]``; what is unset falls through to ``OTEL_*`` variables, read here, once.

    Raises:
        ConfigError: a value or variable cannot be used.
    """

    Config: ClassVar[type[OtlpConfig]] = OtlpConfig
    delivery: ClassVar[Delivery] = "all"
    every_rank: ClassVar[bool] = True

    def __init__(self, config: OtlpConfig) -> None:
        self._config = config
        self._logs_unusable: ConfigError | None = None
        self.settings = self._resolved()
        self._span_settings = queue_settings(config, os.environ, "traces")
        self._metric_settings = metric_settings(config, os.environ)
        self._context: SinkContext | None = None
        self._metrics: MetricSource | None = None
        self._reader: UpdateReader | None = None
        self._exporters: dict[Signal, Exporter] = {}
        self._lock = threading.Lock()
        self._failing: set[Signal] = set()
        self._told_lost = 0
        self._told_outside = 0
        self._told_clock = False
        self._ended = False

    def _resolved(self) -> dict[Signal, SignalSettings]:
        """Settings of each signal. What is wrong with those of logs matters only to a run that has log events."""
        found: dict[Signal, SignalSettings] = {}
        for signal in self._config.signals:
            try:
                check_variables(os.environ, (signal,))
                found[signal] = resolve(self._config, os.environ, signal)
                check_proxies(os.environ, found[signal])
            except ConfigError as error:
                if signal != "logs":
                    raise
                found.pop(signal, None)
                self._logs_unusable = error
        return found

    # --- what the host asks for before opening ------------------------------------------------

    @hookimpl
    def esper_span_processors(self, context: SinkContext) -> list[SpanProcessor]:
        """One processor: it queues ended spans for the exporter's thread.

        Raises:
            SinkError: a certificate file or the credential provider cannot be used.
        """
        if "traces" not in self.settings:
            return []
        self._context = context
        source = span_source(_at_once(self._span_settings, context), patient=context.mode == "replay")
        exporter = self._exporter("traces", source)
        return [SpanQueue(source, lambda: exporter.close(self._config.close_timeout_s), self._flush)]

    @hookimpl
    def esper_metric_readers(self, context: SinkContext) -> list[MetricReader]:
        """One reader: it is collected in the exporter's thread."""
        # A check sends one marked update's gauges; a replay makes no measurements.
        if "metrics" not in self.settings or context.mode != "live":
            return []
        self._context = context
        self._reader = UpdateReader(self._metric_settings)
        return [self._reader]

    @hookimpl
    def esper_log_record_processors(self, context: SinkContext) -> list[LogRecordProcessor]:
        """One processor: it queues log events for the exporter's thread.

        Raises:
            ConfigError: a value or variable of logs cannot be used.
            SinkError: a certificate file or the credential provider cannot be used.
        """
        if self._logs_unusable is not None:
            raise self._logs_unusable
        if "logs" not in self.settings:
            return []
        from esper_sink_otlp.logs import LogQueue, log_source  # noqa: PLC0415  # the SDK's unstable part, when needed

        self._context = context
        settings = queue_settings(self._config, os.environ, "logs")
        source = log_source(_at_once(settings, context), patient=context.mode == "replay")
        exporter = self._exporter("logs", source)
        return [LogQueue(source, lambda: exporter.close(self._config.close_timeout_s), self._flush)]

    # --- hooks --------------------------------------------------------------------------------

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Start the exporters. Nothing is sent under an application's own SDK, which exports for itself.

        Raises:
            SinkError: what is to be sent is logs alone, and the run has no log events.
        """
        self._context = context
        if set(self._config.signals) == {"logs"} and context.events == "span":
            raise SinkError(
                '[sink.otlp] signals = ["logs"] sends nothing with [otel] events = "span": set otel.events = "log", '
                'or signals = ["traces", "metrics"]'
            )
        if context.mode == "live" and not self._exporters and self._reader is None:
            context.logger.warning(
                "otlp sends nothing: the application has set up OpenTelemetry itself, and its own exporters send "
                "what Esper records"
            )
            return
        if "metrics" in self.settings:
            self._metrics = MetricSource(
                settings=self._metric_settings,
                points=gauge_points,
                resource=_resources(context),
                queue_size=self._span_settings.queue_size,
                update_interval_s=self._config.update_interval_s,
                window_s=self._config.replay_window_s,
                reader=self._reader,
                patient=context.mode == "replay",
            )
            self._exporter("metrics", self._metrics)
        for exporter in self._exporters.values():
            exporter.start()
            context.logger.info("otlp: %s", redact(repr(self.settings[exporter.signal])))

    @hookimpl
    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """Queue the update's gauge points and ask for a collection."""
        if self._metrics is not None:
            self._metrics.put(event)
        self._tell_losses()

    @hookimpl
    def esper_sink_closed(self) -> None:
        """Send what is left, inside ``close_timeout_s``, and report what did not arrive.

        Spans and log events are closed by the host through the processors, which may still hold some; here their end is
        awaited.
        """
        limit_s = self._config.close_timeout_s
        until = time.monotonic() + limit_s
        if (metrics := self._exporters.get("metrics")) is not None:
            metrics.close(limit_s)
        for signal, exporter in self._exporters.items():
            if signal != "metrics":
                exporter.wait_closed(max(0.0, until - time.monotonic()) + _LATE_S)
        self._end()

    @hookimpl
    def esper_sink_cut_off(self) -> None:
        """Report what was not acknowledged: the host's deadline came before the sink's own."""
        self._end()

    def _end(self) -> None:
        """Close the account: whatever is answered later, these are its numbers."""
        for exporter in self._exporters.values():
            exporter.give_up()
        self._tell_losses()
        self._tell_outside()
        with self._lock:
            first, self._ended = not self._ended, True
        if first and self._context is not None and self._exporters:
            self._context.logger.info("otlp: %s", self._account())

    def _account(self) -> str:
        """What was sent, for ``trainer.log``."""
        words = [
            f"{signal}: {exporter.account.delivered} sent in {exporter.requests} requests, "
            f"{exporter.failures} requests failed"
            for signal, exporter in self._exporters.items()
        ]
        if self._metrics is not None:
            words.append(f"{self._metrics.coalesced} updates shared a collection with another")
        return "; ".join(words)

    # --- inside -------------------------------------------------------------------------------

    def _exporter(self, signal: Signal, source: Source) -> Exporter:
        settings = self.settings[signal]
        made = self._exporters[signal] = Exporter(
            signal,
            Sender(settings, redact),
            source,
            timeout_s=settings.timeout_s,
            batch_bytes=self._config.batch_bytes,
            on_change=self._changed,
            on_answer=self._hear_clock,
        )
        return made

    def _changed(self, change: StateChange) -> None:
        """An exporter's state changed. In its thread. The sink recovers when its last failing signal does."""
        context = self._context
        if context is None:
            return
        with self._lock:
            before = bool(self._failing)
            if change.state == "failing":
                self._failing.add(change.signal)
            else:
                self._failing.discard(change.signal)
            after = bool(self._failing)
        message = redact(change.message)
        context.logger.warning("otlp: %s", message)
        if after != before and context.mode != "check":  # check_report says it
            context.report(change.state, message)

    def _hear_clock(self, answer: Answer) -> None:
        """Warn of a clock that is wrong, once a run. In an exporter's thread."""
        words = clock_words(answer.clock_ahead_s)
        context = self._context
        if not words or context is None or context.mode == "check":  # check_report says it
            return
        with self._lock:
            first, self._told_clock = not self._told_clock, True
        if first:
            context.logger.warning("otlp: %s", words)

    def _tell_losses(self) -> None:
        """Hand new losses to the host's count."""
        with self._lock:
            lost = self.lost
            new, self._told_lost = lost - self._told_lost, lost
        if new > 0 and self._context is not None and self._context.mode != "check":
            self._context.report("failing", f"{new} items lost: {self._loss_words()}", lost=new)

    @property
    def lost(self) -> int:
        """Spans, updates' gauge points and log events that did not arrive; those kept out for their age apart."""
        return sum(exporter.account.lost - exporter.account.outside for exporter in self._exporters.values())

    def _loss_words(self) -> str:
        words = []
        for signal, exporter in self._exporters.items():
            unit = _UNITS[signal]
            account = exporter.account
            for count, why in (
                (account.dropped, "the queue was full"),
                (account.rejected, "refused by the receiver"),
                (account.unsent, "not acknowledged when time was over"),
            ):
                if count:
                    words.append(f"{count} {unit} {why}")
        return ", ".join(words)

    def _flush(self, timeout_s: float) -> bool:
        """Wait until everything queued so far was sent, or the time is over."""
        until = time.monotonic() + timeout_s
        for exporter in self._exporters.values():
            exporter.wake()
        while time.monotonic() < until:
            if not any(exporter.account.undelivered for exporter in self._exporters.values()):
                return True
            time.sleep(0.02)
        return False

    def _tell_outside(self) -> None:
        metrics, exporter = self._metrics, self._exporters.get("metrics")
        if metrics is None or exporter is None or self._context is None:
            return
        with self._lock:
            outside = exporter.account.outside
            new, self._told_outside = outside - self._told_outside, outside
        if new > 0:
            self._context.report(
                "failing",
                f"{metrics.points_outside} gauge points of {outside} updates kept out: older than "
                f"{self._config.replay_window_s:g} s (replay_window_s), the backend would refuse their whole batch",
                lost=new,
            )

    # --- `esper sinks check` ------------------------------------------------------------------

    def check_report(self) -> str:
        """Wait for the answers to what the check sent and say, for each signal, where it went and what came back.

        Raises:
            SinkError: a signal did not arrive; the message says why.
        """
        until = time.monotonic() + max((item.timeout_s for item in self.settings.values()), default=0.0) + 1.0
        for exporter in self._exporters.values():
            exporter.wait_answer(max(0.0, until - time.monotonic()))
        return check_words(self._exporters, self.settings)

    # --- `esper replay --to otlp` -------------------------------------------------------------

    def replay_report(self) -> str:
        """What the replay sent, and what no replay can: named, so that nobody looks for it in vain."""
        sent = ", ".join(
            f"{exporter.account.delivered} {'updates as gauge points' if signal == 'metrics' else _UNITS[signal]}"
            for signal, exporter in self._exporters.items()
        )
        return f"sent {sent or 'nothing'}\n{not_rebuilt()}"


def _at_once(settings: QueueSettings, context: SinkContext) -> QueueSettings:
    """A check waits for nothing more to send."""
    return replace(settings, delay_s=0.0) if context.mode == "check" else settings


def _resources(context: SinkContext) -> Callable[[TelemetryEvent[Any]], Mapping[str, str | int | float | bool]]:
    """The resource of an event's process: this one's, or in a replay what the journal says."""
    if context.mode == "replay" and context.run_dir is not None:
        return JournalResources(RunDir(context.run_dir, context.run_id), context.resource).of
    return lambda _: context.resource

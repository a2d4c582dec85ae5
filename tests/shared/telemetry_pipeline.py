"""The instrumentation behind the host's hub, with exporters in memory: what an SDK receives."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from esper_core.emitter import TelemetryEmitter
from esper_core.events import EarlyStop, HeadStats, Payload, PPOUpdatePayload, TelemetryEvent
from esper_core.health import update_level
from esper_core.hooks import SinkContext, SinkHooks, hookimpl
from esper_core.host.deliver.hub import Hub
from esper_core.instrumentation.sink import Instrumentation

if TYPE_CHECKING:
    from esper_core.config.schema import OtelConfig
    from esper_core.instrumentation.metrics import SinkCounts

__all__ = ["IDENTITY", "Counts", "Pipeline", "hearing", "update_payload", "whole"]

IDENTITY = {"esper.run.id": "run-1", "esper.run.attempt": 2, "esper.rank": 1}


def update_payload(update_id: int = 1, **changes: Any) -> PPOUpdatePayload:
    heads = (
        HeadStats(name="operations", kl=0.012, decisions=64, weight=1.0, share=0.9, entropy=1.1, clip_fraction=0.1),
        HeadStats(name="slot", kl=None, decisions=0, weight=0.0),
    )
    values: dict[str, Any] = {
        "env_steps": 512,
        "outcome": "early_stopped",
        "reason": "KL over the limit",
        "kl_divergence": 0.012,
        "kl_joint": 0.02,
        "kl_by_epoch": (0.01, 0.031),
        "early_stop": EarlyStop(epoch=2, minibatch=1, value=0.031, threshold=0.03, head="operations"),
        "target_kl": 0.02,
        "stop_threshold": 0.03,
        "heads": heads,
        "steps": 60,
        "steps_forced": 4,
        "clamped": 2,
        "non_finite": 0,
        "policy_loss": -0.01,
        "episodes": 3,
        "return_mean_100": 101.5,
        "episode_length_mean": 20.0,
        "minibatches": 7,
        "value_loss": 0.5,
        "entropy": 0.69,
    }
    return PPOUpdatePayload(update_id=update_id, **(values | changes))


def hearing(observer: object) -> SinkHooks:
    """The caller of a hub that hands everything to one observer."""
    hub = Hub([], SinkContext(run_id="run-1", episodes=True))
    hub.add_first("observer", observer)
    return hub.hooks


def whole(emitter: TelemetryEmitter, payload: PPOUpdatePayload, rollout_steps: int = 0) -> PPOUpdatePayload:
    """The payload with the level and the times that its recorder would give it."""
    times = emitter.end_update(payload.update_id)
    return dataclasses.replace(
        payload,
        health=update_level(payload.kl_divergence, kl_joint=payload.kl_joint, non_finite=payload.non_finite),
        rollout_s=times.rollout_s,
        update_s=times.update_s,
        steps_per_s=times.rate(rollout_steps),
    )


class Pipeline:
    """The instrumentation, and a witness of what every sink was given, behind the host's hub."""

    event_kinds = "all"

    @hookimpl
    def esper_event(self, event: TelemetryEvent[Payload]) -> None:
        self.events.append(event)
        self.instrumentation.esper_event(event)

    def __init__(self, config: OtelConfig) -> None:
        self.spans = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.logs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK's
        self.loggers = LoggerProvider(shutdown_on_exit=False)
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        self.events: list[TelemetryEvent[Payload]] = []
        self.instrumentation = Instrumentation(
            self.meters,
            sdk_logger_provider=self.loggers,
            config=config,
            sink_status=lambda: self.sinks,
            run_id="run-1",
            attempt=2,
            rank=1,
        )
        self.sinks: list[SinkCounts] = []
        self.emitter = TelemetryEmitter(
            hearing(self),
            run_id="run-1",
            attempt=2,
            rank=1,
            tracer=self.tracers.get_tracer("esper_core"),
            complete=self.instrumentation.complete,
            episode_spans=config.episodes,
        )

    def update(self, payload: PPOUpdatePayload, rollout_steps: int = 64) -> TelemetryEvent[PPOUpdatePayload]:
        self.emitter.begin_rollout(payload.update_id)
        self.emitter.begin_update(payload.update_id)
        return self.emitter.emit_ppo_update(whole(self.emitter, payload, rollout_steps))

    def points(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def value(self, name: str, **attributes: str) -> float | None:
        wanted = IDENTITY | {key.replace("__", "."): value for key, value in attributes.items()}
        for point in self.points().get(name, ()):
            if dict(point.attributes) == wanted:
                found: float = point.value
                return found
        return None


@dataclasses.dataclass
class Counts:
    sink: str
    delivered: int
    lost: int
    failures: int
    queue: int | None = None

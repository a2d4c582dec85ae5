"""One simulated trainer: what the otlp sink sends after every update, from templates."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from esper_core import ids
from esper_core.config.schema import OtelConfig
from esper_core.events import HeadStats, PPOUpdatePayload, SpanRef, TelemetryEvent, TraceRef
from esper_core.health import classify_kl
from esper_core.host.otel.played import ended_spans
from esper_core.instrumentation.sink import Instrumentation
from esper_core.semconv.gauges import gauge_points
from esper_sink_otlp.points import joined, of_process, without_event_gauges

if TYPE_CHECKING:
    from esper_core.host.otel.resource import ResourceValue

__all__ = ["Trainer", "update_event"]

HEADS = ("operations", "slot", "blueprint", "tempo", "tempo_offset")


def update_event(run_id: str, update_id: int, kl: float) -> TelemetryEvent[PPOUpdatePayload]:
    """An update as the default task measures it: five heads, everything filled in."""
    now = time.time_ns()
    trace, iteration, rollout, update = f"{ids.new_trace_id():032x}", *(f"{ids.new_span_id():016x}" for _ in range(3))
    heads = tuple(
        HeadStats(
            name=name,
            kl=kl * (index + 1) / 3,
            decisions=900 - 150 * index,
            weight=0.9 - 0.15 * index,
            share=0.2,
            entropy=0.8,
            entropy_normalised=0.6,
            clip_fraction=0.1,
        )
        for index, name in enumerate(HEADS)
    )
    payload = PPOUpdatePayload(
        update_id=update_id,
        env_steps=update_id * 1024,
        kl_divergence=kl,
        kl_joint=kl * 3,
        kl_first_minibatch=1e-8,
        kl_mean=kl / 2,
        kl_max=kl * 1.2,
        kl_last=kl,
        kl_by_epoch=(kl / 4, kl / 2, kl * 0.8, kl),
        target_kl=0.02,
        stop_threshold=0.03,
        stop_window=1,
        ratio_max=1.6,
        health=classify_kl(kl),
        heads=heads,
        epochs=4,
        epochs_planned=4,
        minibatches=16,
        minibatches_planned=16,
        steps=1000,
        steps_forced=24,
        policy_loss=-0.01,
        value_loss=0.5,
        entropy=3.1,
        entropy_normalised=0.6,
        clip_fraction=0.12,
        explained_variance=0.7,
        grad_norm=0.6,
        grad_norm_max=1.9,
        advantage_mean=0.01,
        advantage_std=1.1,
        learning_rate=3e-4,
        clip_range=0.2,
        episodes=8,
        return_mean=1.5,
        return_min=0.1,
        return_max=3.0,
        episode_length_mean=128.0,
        return_mean_100=1.4,
        rollout_s=3.0,
        update_s=1.0,
        steps_per_s=256.0,
    )
    spans = (
        SpanRef(name="esper.iteration", span_id=iteration, parent_span_id=None, start_ns=now - 4 * 10**9, end_ns=now),
        SpanRef(
            name="esper.rollout",
            span_id=rollout,
            parent_span_id=iteration,
            start_ns=now - 4 * 10**9,
            end_ns=now - 10**9,
        ),
        SpanRef(name="esper.ppo.update", span_id=update, parent_span_id=iteration, start_ns=now - 10**9, end_ns=now),
    )
    return TelemetryEvent(
        time_ns=now, run_id=run_id, attempt=1, rank=0, trace=TraceRef(trace_id=trace, spans=spans), payload=payload
    )


class Trainer:
    """One simulated trainer: its own resource, and requests made from templates, so that a thousand fit one process."""

    def __init__(self, number: int) -> None:
        self.run_id = f"fleet-{number:04d}"
        described: dict[str, ResourceValue] = {
            "service.name": "esper",
            "service.instance.id": f"{ids.new_trace_id():032x}",
            "esper.run.id": self.run_id,
            "esper.run.attempt": 1,
            "esper.rank": 0,
            "esper.run.environment": "morphogenesis",
            "host.name": f"h{number % 50}",
        }
        event = update_event(self.run_id, 1, 0.004)
        self._traces = encode_spans(ended_spans(event, described))
        self._spans = [
            span
            for resource_spans in self._traces.resource_spans
            for scope in resource_spans.scope_spans
            for span in scope.spans
        ]
        self._metrics = metrics_template(event, described)
        self._points = [
            (metric.name, point)
            for resource_metrics in self._metrics.resource_metrics
            for scope in resource_metrics.scope_metrics
            for metric in scope.metrics
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        ]
        self.update = 0

    @property
    def points(self) -> int:
        """Metric points a request."""
        return len(self._points)

    def next(self) -> tuple[bytes, bytes]:
        """The two requests of the next update."""
        self.update += 1
        now = time.time_ns()
        trace = ids.new_trace_id().to_bytes(16)
        names = {span.name: ids.new_span_id().to_bytes(8) for span in self._spans}
        for span in self._spans:
            span.trace_id, span.span_id = trace, names[span.name]
            span.parent_span_id = b"" if span.name == "esper.iteration" else names["esper.iteration"]
            span.start_time_unix_nano, span.end_time_unix_nano = now - 10**9, now
            for event in span.events:
                event.time_unix_nano = now
        for name, point in self._points:
            point.time_unix_nano = now
            if name == "esper.run.heartbeat":
                point.as_double = now / 1e9
            elif name == "esper.ppo.last.update_id":
                point.as_int = self.update
        return self._traces.SerializeToString(), self._metrics.SerializeToString()


def metrics_template(event: TelemetryEvent[PPOUpdatePayload], described: dict[str, Any]) -> Any:
    """What one collection of a real trainer holds, encoded by the SDK and the sink's own code."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader], resource=Resource(described), shutdown_on_exit=False)
    instrumentation = Instrumentation(provider, config=OtelConfig())
    instrumentation.set_run_status(heartbeat_s=time.time(), progress_s=time.time())
    instrumentation.esper_event(event)
    data = reader.get_metrics_data()
    assert data is not None
    (collected,) = data.resource_metrics
    gauges = of_process(collected.resource, gauge_points(event))
    return encode_metrics(joined((without_event_gauges(collected), gauges)))

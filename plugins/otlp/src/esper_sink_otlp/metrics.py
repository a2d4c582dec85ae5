"""The metric reader that the sink contributes, and the source of its exporter.

Counters and histograms come from the SDK, collected in the exporter's thread when a PPO update arrived or the
interval is over. The gauges that hold an event's values do not: the SDK would stamp them with the time of collection
and keep only the last, so each update's points are made from the event itself, with the event's time. That is also
how a replay makes the very same points again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader, MetricsData
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation

from esper_core.semconv.identity import SCOPE_NAME
from esper_core.semconv.names import GAUGES
from esper_sink_otlp.points import add_gauge_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics

    from esper_core.events import TelemetryEvent
    from esper_core.semconv.gauges import GaugePoint
    from esper_sink_otlp.exporter import Batch
    from esper_sink_otlp.settings import MetricSettings

__all__ = ["MetricSource", "UpdateReader"]

EVENTS_PER_REQUEST: Final = 100
"""Updates whose gauge points share a request: about 60 points and 6 KB each."""
KEPT_DELTAS: Final = 64
"""Delta collections kept while the receiver is away; cumulative ones need not be kept."""
WINDOW_MARGIN_S: Final = 60.0
"""Points are kept out this long before the window ends: they travel, and clocks differ."""
EVENT_GAUGES: Final = frozenset(gauge.name for gauge in GAUGES)
"""Gauges whose points come from events."""
_MARK: Final = {"esper.marked": "true"}
_REPLAY_PATIENCE_S: Final = 30.0


class UpdateReader(MetricReader):
    """Collects only when it is asked to, never in the trainer's thread, and starts no thread of its own."""

    def __init__(self, settings: MetricSettings) -> None:
        delta = AggregationTemporality.DELTA
        temporality: dict[type, AggregationTemporality] = {}
        if settings.temporality != "cumulative":
            temporality = {Counter: delta, Histogram: delta}
        if settings.temporality == "delta":
            temporality[ObservableCounter] = delta
        super().__init__(
            preferred_temporality=temporality,
            preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()}
            if settings.exponential
            else None,
        )
        self._data: MetricsData | None = None

    def read(self) -> MetricsData | None:
        """Everything the SDK has now. In the exporter's thread."""
        self._data = None
        self.collect()
        return self._data

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        del timeout_millis, kwargs
        self._data = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing to do: the last collection is the sink's, after its last event, which may still be on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricBatch:
    """One request: what was collected, and the gauge points of some events."""

    events: Sequence[TelemetryEvent[Any]]
    collected: Sequence[ExportMetricsServiceRequest]
    request: ExportMetricsServiceRequest

    @property
    def items(self) -> int:
        """Events whose gauge points it carries."""
        return len(self.events)

    def encode(self) -> bytes:
        """An ``ExportMetricsServiceRequest``."""
        body: bytes = self.request.SerializeToString()
        return body

    def halves(self) -> Sequence[MetricBatch]:
        """None: its size is bounded by the number of events."""
        return ()


@dataclass(slots=True)
class _Outside:
    """Points that were kept out of requests."""

    events: int = 0
    points: int = 0


@dataclass(slots=True, kw_only=True)
class MetricSource:
    """Events whose gauge points wait, and the reader to collect from.

    Attributes:
        settings: interval and temporality.
        points: makes an event's gauge points.
        resource: of the process that emitted an event; used for points that no collection carries (a replay).
        scope: name and version of the instrumentation scope of such points.
        queue_size: events that may wait; the oldest is dropped and counted.
        update_interval_s: least seconds between two collections that updates cause.
        window_s: older points are kept out and counted.
        reader: None in a replay.
        patient: a replay waits for a place instead of dropping.
        clock_ns: unix time.
    """

    settings: MetricSettings
    points: Callable[[TelemetryEvent[Any]], Sequence[GaugePoint]]
    resource: Callable[[TelemetryEvent[Any]], Mapping[str, str | int | float | bool]]
    scope: tuple[str, str] = (SCOPE_NAME, "")
    queue_size: int = 4096
    update_interval_s: float = 0.5
    window_s: float = 7200.0
    reader: UpdateReader | None = None
    patient: bool = False
    clock_ns: Callable[[], int] = time.time_ns
    wake: Callable[[], None] = lambda: None
    coalesced: int = 0
    dropped: int = 0
    outside: _Outside = field(default_factory=_Outside)
    _events: deque[TelemetryEvent[Any]] = field(default_factory=deque)
    _kept: deque[ExportMetricsServiceRequest] = field(default_factory=lambda: deque(maxlen=KEPT_DELTAS))
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _collected_at: float = field(default_factory=time.monotonic)
    _final_done: bool = False
    _closed: bool = False

    # --- the sink's thread --------------------------------------------------------------------

    def put(self, event: TelemetryEvent[Any]) -> None:
        """Queue an event for its gauge points and for a collection."""
        with self._changed:
            if self._closed:
                self.dropped += 1
                return
            if len(self._events) >= self.queue_size:
                self.wake()
                if not self.patient or not self._changed.wait_for(
                    lambda: len(self._events) < self.queue_size or self._closed, _REPLAY_PATIENCE_S
                ):
                    self._events.popleft()
                    self.dropped += 1
            self._events.append(event)
        self.wake()

    @property
    def waiting(self) -> int:
        """Events that wait."""
        return len(self._events)

    # --- the exporter's thread ----------------------------------------------------------------

    def wait_s(self) -> float:
        """Seconds until the next collection is due."""
        since_s = time.monotonic() - self._collected_at
        pace_s = self._pace_s() if self._events else self.settings.interval_s
        return max(0.01, pace_s - since_s)

    def _pace_s(self) -> float:
        # A replay makes no collections: its points need no spacing.
        return self.update_interval_s if self.reader is not None else 0.0

    def take(self, *, final: bool) -> Batch | None:
        """Collect when it is due, and gather the gauge points of the events since."""
        since_s = time.monotonic() - self._collected_at
        due = bool(self._events) and since_s >= self._pace_s()
        if not (final or due or (self.reader is not None and since_s >= self.settings.interval_s)):
            return None
        if final and self._final_done and not self._events and not self._kept:
            return None
        self._collected_at = time.monotonic()
        self._final_done = final
        with self._changed:
            events = [self._events.popleft() for _ in range(min(len(self._events), EVENTS_PER_REQUEST))]
            self._changed.notify_all()
        self.coalesced += max(0, len(events) - 1)
        return self._batch(events)

    def restore(self, batch: Batch) -> None:
        """Keep the events until the receiver is back, and what was collected if it is not collected again."""
        assert isinstance(batch, MetricBatch)  # only what take() gave  # noqa: S101
        with self._changed:
            self._events.extendleft(reversed(batch.events))
        self.coalesced -= max(0, len(batch.events) - 1)
        if self.settings.temporality != "cumulative":
            self._kept.extend(batch.collected)
        self._final_done = False

    def forget(self) -> int:
        """Give up what waits."""
        with self._changed:
            count = len(self._events)
            self._closed = True
            self._events.clear()
            self._changed.notify_all()
        return count

    # --- inside -------------------------------------------------------------------------------

    def _batch(self, events: list[TelemetryEvent[Any]]) -> MetricBatch | None:
        collected = self._collect()
        request = ExportMetricsServiceRequest()
        for one in (*self._kept, *collected):
            request.MergeFrom(one)
        kept, self._kept = list(self._kept), deque(maxlen=KEPT_DELTAS)
        # Live there is one process, and its collection has the resource; a replay may hold several attempts.
        live = request.resource_metrics[-1] if request.resource_metrics else None
        by_process: dict[tuple[int, int], list[TelemetryEvent[Any]]] = {}
        for event in events:
            by_process.setdefault((event.attempt, event.rank), []).append(event)
        for same in by_process.values():
            if points := self._points_of(same):
                target = live if live is not None else request.resource_metrics.add()
                add_gauge_points(target, points, resource=self.resource(same[0]), scope=self.scope)
        if not request.resource_metrics:
            return None
        return MetricBatch(events=events, collected=(*kept, *collected), request=request)

    def _points_of(self, events: Sequence[TelemetryEvent[Any]]) -> list[GaugePoint]:
        oldest_ns = self.clock_ns() - int((self.window_s - min(WINDOW_MARGIN_S, self.window_s / 10)) * 1e9)
        inside: list[GaugePoint] = []
        for event in events:
            made = self.points(event)
            if event.marked:
                made = [replace(point, attributes={**point.attributes, **_MARK}) for point in made]
            young = [point for point in made if point.time_ns >= oldest_ns]
            self.outside.points += len(made) - len(young)
            self.outside.events += len(young) < len(made)
            inside += young
        return inside

    def _collect(self) -> tuple[ExportMetricsServiceRequest, ...]:
        data = self.reader.read() if self.reader is not None else None
        if data is None or not data.resource_metrics:
            return ()
        request: ExportMetricsServiceRequest = encode_metrics(data)
        for resource_metrics in request.resource_metrics:
            self._without_event_gauges(resource_metrics)
        return (request,)

    @staticmethod
    def _without_event_gauges(resource_metrics: ResourceMetrics) -> None:
        """Take out the gauges that come from events, which ``add_gauge_points`` stamps rightly."""
        for scope in resource_metrics.scope_metrics:
            kept = [metric for metric in scope.metrics if metric.name not in EVENT_GAUGES]
            if len(kept) < len(scope.metrics):
                del scope.metrics[:]
                scope.metrics.extend(kept)

"""The metric reader that the sink contributes, and the source of its exporter.

Counters and histograms come from the SDK, collected in the exporter's thread when a PPO update arrived or the
interval is over. The gauges that hold an event's values do not: the SDK would stamp them with the time of collection
and keep only the last, so each update's points are made from the event itself, with the event's time. That is also
how a replay makes the very same points again.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader, MetricsData
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource

from esper_sink_otlp.backlog import Backlog
from esper_sink_otlp.points import joined, of_process, without_event_gauges

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk.metrics.export import ResourceMetrics

    from esper_core.events import TelemetryEvent
    from esper_core.semconv.gauges import GaugePoint
    from esper_sink_otlp.exporter import Batch
    from esper_sink_otlp.settings import MetricSettings

__all__ = ["MetricSource", "UpdateReader"]

EVENTS_PER_REQUEST: Final = 100
"""Updates whose gauge points share a request: about 60 points and 6 KB each."""
GATHER_S: Final = 0.05
"""A replay sends an update's points when it was quiet for so long, or when they fill a request."""
KEPT_DELTAS: Final = 64
"""Delta collections kept while the receiver is away; cumulative ones need not be kept."""
WINDOW_MARGIN_S: Final = 60.0
"""Points are kept out this long before the window ends: they travel, and clocks differ."""
_MARK: Final = {"esper.marked": "true"}
_EVENT_BYTES: Final = 6000
_COLLECTION_BYTES: Final = 40_000


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
    """One request: what was collected, and the gauge points of some events.

    Attributes:
        events: they wait until the receiver has their points.
        collected: by the SDK; the last is of now.
        build: joins both.
    """

    events: Sequence[TelemetryEvent[Any]]
    collected: Sequence[ResourceMetrics]
    build: Callable[[Sequence[TelemetryEvent[Any]], Sequence[ResourceMetrics]], MetricsData]

    @property
    def items(self) -> int:
        """Events whose gauge points it carries."""
        return len(self.events)

    @property
    def payload(self) -> MetricsData:
        """What the SDK's exporter takes."""
        return self.build(self.events, self.collected)

    @property
    def size_bytes(self) -> int:
        """The request's size, estimated."""
        return _EVENT_BYTES * len(self.events) + _COLLECTION_BYTES * len(self.collected)

    def halves(self) -> Sequence[MetricBatch]:
        """By events; then one event and the collection."""
        middle = (len(self.events) + 1) // 2
        if len(self.events) > 1:
            first, second = self.events[:middle], self.events[middle:]
        elif self.events and self.collected:
            first, second = (), self.events
        else:
            return ()
        return (replace(self, events=first), replace(self, events=second, collected=()))


@dataclass(slots=True, kw_only=True)
class MetricSource:
    """Events whose gauge points wait, and the reader to collect from.

    Attributes:
        settings: interval and temporality.
        points: makes an event's gauge points.
        resource: of the process that emitted an event; used for points that no collection carries (a replay).
        queue_size: events that may wait; the oldest is dropped and counted.
        update_interval_s: least seconds between two collections that updates cause.
        window_s: older points are kept out and counted.
        reader: None in a replay.
        patient: a replay waits for a place instead of dropping.
        clock_ns: unix time.
        coalesced: updates that shared a collection with another.
        points_outside: gauge points kept out for their age.
    """

    settings: MetricSettings
    points: Callable[[TelemetryEvent[Any]], Sequence[GaugePoint]]
    resource: Callable[[TelemetryEvent[Any]], Mapping[str, str | int | float | bool]]
    queue_size: int = 4096
    update_interval_s: float = 0.5
    window_s: float = 7200.0
    reader: UpdateReader | None = None
    patient: bool = False
    clock_ns: Callable[[], int] = time.time_ns
    coalesced: int = 0
    points_outside: int = 0
    backlog: Backlog[TelemetryEvent[Any]] = field(init=False)
    _kept: deque[ResourceMetrics] = field(default_factory=lambda: deque(maxlen=KEPT_DELTAS))
    _live: Resource | None = None
    _collected_at: float = field(default_factory=time.monotonic)
    _put_at: float = 0.0
    _final_done: bool = False

    def __post_init__(self) -> None:
        self.backlog = Backlog(self.queue_size, patient=self.patient)

    # --- the sink's thread --------------------------------------------------------------------

    def put(self, event: TelemetryEvent[Any]) -> None:
        """Queue an event for its gauge points and for a collection."""
        self._put_at = time.monotonic()
        self.backlog.put(event)
        self.backlog.wake()

    # --- the exporter's thread ----------------------------------------------------------------

    def wait_s(self) -> float:
        """Seconds until the next collection is due."""
        waiting = len(self.backlog)
        if self.reader is None:
            return GATHER_S if waiting else self.settings.interval_s
        pace_s = self.update_interval_s if waiting else self.settings.interval_s
        return max(0.01, self._collected_at + pace_s - time.monotonic())

    def _due(self) -> bool:
        waiting, now = len(self.backlog), time.monotonic()
        if self.reader is None:  # no collections: updates only gather
            return waiting >= EVENTS_PER_REQUEST or (waiting > 0 and now - self._put_at >= GATHER_S)
        since_s = now - self._collected_at
        return since_s >= self.settings.interval_s or (waiting > 0 and since_s >= self.update_interval_s)

    def take(self, *, final: bool) -> Batch | None:
        """Collect when it is due, and gather the gauge points of the events since."""
        if not (final or self._due()):
            return None
        if final and self._final_done and not len(self.backlog) and not self._kept:
            return None
        self._collected_at = time.monotonic()
        self._final_done = final
        events = self._events()
        self.coalesced += max(0, len(events) - 1)
        collected = (*self._kept, *self._collect())
        self._kept.clear()
        if not events and not collected:
            return None
        return MetricBatch(events=events, collected=collected, build=self._build)

    def _events(self) -> list[TelemetryEvent[Any]]:
        """The next events that are young enough; the others are settled as outside."""
        while taken := self.backlog.take(EVENTS_PER_REQUEST):
            events = [event for event in taken if self._is_inside(event)]
            self.backlog.settle(outside=len(taken) - len(events))
            if events:
                return events
        return []

    def restore(self, batch: Batch) -> None:
        """Keep the events until the receiver is back, and what was collected if it is not collected again."""
        assert isinstance(batch, MetricBatch)  # only what take() gave  # noqa: S101
        self.backlog.restore(batch.events)
        self.coalesced -= max(0, len(batch.events) - 1)
        if self.settings.temporality != "cumulative":
            self._kept.extend(batch.collected)
        self._final_done = False

    # --- inside -------------------------------------------------------------------------------

    def _is_inside(self, event: TelemetryEvent[Any]) -> bool:
        """Whether the backend still takes the event's points, which all have its time."""
        oldest_ns = self.clock_ns() - int((self.window_s - min(WINDOW_MARGIN_S, self.window_s / 10)) * 1e9)
        if event.time_ns >= oldest_ns:
            return True
        self.points_outside += len(self.points(event))
        return False

    def _build(self, events: Sequence[TelemetryEvent[Any]], collected: Sequence[ResourceMetrics]) -> MetricsData:
        # Live there is one process, and its collection has the resource; a replay may hold several attempts.
        by_process: dict[tuple[int, int], list[TelemetryEvent[Any]]] = {}
        for event in events:
            by_process.setdefault((event.attempt, event.rank), []).append(event)
        gauges = [
            of_process(
                self._live or Resource(dict(self.resource(same[0]))),
                [point for event in same for point in self._points_of(event)],
            )
            for same in by_process.values()
        ]
        return joined((*collected, *gauges))

    def _points_of(self, event: TelemetryEvent[Any]) -> Sequence[GaugePoint]:
        made = self.points(event)
        if event.marked:
            return [replace(point, attributes={**point.attributes, **_MARK}) for point in made]
        return made

    def _collect(self) -> tuple[ResourceMetrics, ...]:
        data = self.reader.read() if self.reader is not None else None
        if data is None or not data.resource_metrics:
            return ()
        self._live = data.resource_metrics[-1].resource
        return tuple(without_event_gauges(item) for item in data.resource_metrics)

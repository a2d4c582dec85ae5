"""Counts and histograms of a run's updates, recorded by the thread that collects, not by the trainer's."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from threading import Lock
from typing import TYPE_CHECKING, Final, get_args

from opentelemetry import trace as otel_trace
from opentelemetry.context import Context

from esper_core.events import Outcome, PPOUpdatePayload
from esper_core.health import HealthLevel
from esper_core.semconv.attributes import attribute_specs
from esper_core.semconv.names import GAUGES, METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import SpanContext

    from esper_core.semconv.attributes import AttributeValue

__all__ = [
    "DURATION_BOUNDARIES",
    "KL_BOUNDARIES",
    "Histograms",
    "Pending",
    "Totals",
    "create_histogram",
    "record_finite",
]

KL_BOUNDARIES: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.045, 0.1, 0.5)
"""Histogram boundaries in nats; they include both limits of the verdict. OpenTelemetry's defaults start at 5."""
DURATION_BOUNDARIES: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Histogram boundaries in seconds."""


@dataclass(slots=True)
class Totals:
    """The totals that the counters of one run report. They only increase."""

    updates: dict[str, int] = field(default_factory=lambda: dict.fromkeys(get_args(Outcome), 0))
    levels: dict[str, int] = field(default_factory=lambda: dict.fromkeys((level.value for level in HealthLevel), 0))
    early_stops: int = 0
    episodes: int = 0
    steps: int = 0
    clamped: int = 0
    non_finite: int = 0
    non_finite_fields: dict[str, int] = field(default_factory=dict)

    def add(self, update: PPOUpdatePayload) -> None:
        """Count one update. One thread at a time."""
        self.updates[update.outcome] = self.updates.get(update.outcome, 0) + 1
        self.levels[update.health.value] += 1
        if update.early_stop is not None:
            self.early_stops += 1
        self.episodes += update.episodes
        self.steps += update.steps + update.steps_forced
        self.clamped += update.clamped
        self.non_finite += update.non_finite
        for name in _non_finite_fields(update):
            self.non_finite_fields[name] = self.non_finite_fields.get(name, 0) + 1


_SCOPE: Final = "esper.ppo.kl.scope"
_GAUGED: Final = {gauge.field for gauge in GAUGES if not gauge.head}
_FLOAT_FIELDS: Final = tuple(
    spec.field for spec in attribute_specs(PPOUpdatePayload.kind) if spec.type == "double" and spec.field in _GAUGED
)
_FLOAT_HEAD_FIELDS: Final = tuple(gauge.field.partition(".")[2] for gauge in GAUGES if gauge.head)
_floats_of: Final = attrgetter(*_FLOAT_FIELDS)
_head_floats_of: Final = attrgetter(*_FLOAT_HEAD_FIELDS)


def _non_finite_fields(update: PPOUpdatePayload) -> Iterator[str]:
    """Names of the gauges' fields that hold NaN or Inf."""
    # A difference with itself is 0 for every finite number and NaN for the rest: cheaper than a call.
    for name, value in zip(_FLOAT_FIELDS, _floats_of(update), strict=True):
        if value is not None and value - value != 0.0:
            yield name
    for head in update.heads:
        for name, value in zip(_FLOAT_HEAD_FIELDS, _head_floats_of(head), strict=True):
            if value is not None and value - value != 0.0:
                yield f"heads.{name}"


class Histograms:
    """The histograms that are recorded at a collection; one set for each meter, shared by its runs."""

    def __init__(self, meter: Meter) -> None:
        self.kl = create_histogram(meter, "esper.ppo.kl_divergence", KL_BOUNDARIES)
        self.head_kl = create_histogram(meter, "esper.ppo.head.kl_divergence", KL_BOUNDARIES)
        self.rollout_duration = create_histogram(meter, "esper.ppo.rollout.duration", DURATION_BOUNDARIES)
        self.update_duration = create_histogram(meter, "esper.ppo.update.duration", DURATION_BOUNDARIES)


class Pending:
    """Updates of one run whose counts and histograms are recorded at the next collection.

    Recording a histogram costs the caller 5 to 9 microseconds a point; a five-head update has nine. The first thread
    that collects records them, the KL's within the update's own span, to which its exemplars refer; their time is that
    of the collection, or of the heartbeat. When both come rarely, the thread that ends spans records them, every
    ``LIMIT`` updates: no update is dropped.

    Args:
        histograms: receive the points.
        identity: attributes of every point.
    """

    LIMIT: Final = 256

    def __init__(self, histograms: Histograms, identity: Mapping[str, AttributeValue]) -> None:
        self.totals = Totals()
        self._histograms = histograms
        self._identity = identity
        self._heads: dict[str, Mapping[str, AttributeValue]] = {}
        self._weighted = {**identity, _SCOPE: "weighted"}
        self._joint = {**identity, _SCOPE: "joint"}
        self._waiting: deque[tuple[PPOUpdatePayload, SpanContext]] = deque()
        self._lock = Lock()

    def add(self, update: PPOUpdatePayload, span: SpanContext) -> None:
        """Store one update, with its span. Called by the emitting thread."""
        self._waiting.append((update, span))

    def relieve(self) -> None:
        """Count and record all stored updates when they are many. Any thread."""
        if len(self._waiting) >= self.LIMIT:
            self.drain()

    def drain(self) -> None:
        """Count and record all stored updates. Any thread."""
        if not self._waiting:
            return
        into = self._histograms
        with self._lock:
            while self._waiting:
                update, span = self._waiting.popleft()
                self.totals.add(update)
                within = _within(span)
                record_finite(into.kl, update.kl_divergence, self._weighted, within)
                record_finite(into.kl, update.kl_joint, self._joint, within)
                for head in update.heads:
                    record_finite(into.head_kl, head.kl, self._of_head(head.name), _NO_TRACE)
                record_finite(into.rollout_duration, update.rollout_s, self._identity, _NO_TRACE)
                record_finite(into.update_duration, update.update_s, self._identity, _NO_TRACE)

    def _of_head(self, name: str) -> Mapping[str, AttributeValue]:
        found = self._heads.get(name)
        if found is None:
            found = self._heads[name] = {**self._identity, "esper.ppo.head.name": name}
        return found


def _within(span: SpanContext) -> Context:
    """A context in which a span that has ended is the current one."""
    if not span.is_valid:
        return _NO_TRACE
    return otel_trace.set_span_in_context(otel_trace.NonRecordingSpan(span), _NO_TRACE)


_NO_TRACE: Final = Context()
"""A context without a span: the span that is current where a reader collects is not the update's, so no exemplar."""


def create_histogram(meter: Meter, name: str, boundaries: tuple[float, ...]) -> Histogram:
    """A histogram of the registry with fixed boundaries."""
    spec = METRICS[name]
    return meter.create_histogram(spec.name, spec.unit, spec.brief, explicit_bucket_boundaries_advisory=boundaries)


def record_finite(
    histogram: Histogram,
    value: float | None,
    attributes: Mapping[str, AttributeValue] | None = None,
    context: Context | None = None,
) -> None:
    """Record a finite value; estimators may round to just below 0, which a histogram refuses."""
    if value is not None and math.isfinite(value):
        histogram.record(max(value, 0.0), attributes, context)

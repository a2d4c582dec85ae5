"""Metrics computed when a reader collects, in its thread: last values, counts, histograms of heads and durations.

The trainer's thread only stores the update. Uses only the OpenTelemetry API. The registry, not this module, defines
which field is which gauge.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Protocol, get_args
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Observation

from esper_core.events import Outcome, PPOUpdatePayload
from esper_core.health import HealthLevel, KLLimits, RunState
from esper_core.semconv.attributes import attribute_specs
from esper_core.semconv.gauges import DIVERGENCE, divergence_values, gauge_values
from esper_core.semconv.names import GAUGES, METRICS, Gauge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.metrics import Histogram, Meter, MeterProvider


__all__ = [
    "DURATION_BOUNDARIES",
    "KL_BOUNDARIES",
    "Observed",
    "Pending",
    "SinkCounts",
    "Totals",
    "create_histogram",
    "observed_of",
    "record_finite",
]


KL_BOUNDARIES: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.045, 0.1, 0.5)
"""Histogram boundaries in nats; they include both limits of the verdict. OpenTelemetry's defaults start at 5."""
DURATION_BOUNDARIES: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Histogram boundaries in seconds."""


class SinkCounts(Protocol):
    """The counters that ``sink_status`` returns per sink; ``SinkStatusChanged`` has them. ``queue`` may be absent."""

    @property
    def sink(self) -> str:
        """The sink's name."""

    @property
    def delivered(self) -> int:
        """Events delivered so far."""

    @property
    def lost(self) -> int:
        """Events lost so far."""

    @property
    def failures(self) -> int:
        """Calls that raised so far."""


@dataclass(slots=True)
class Totals:
    """The totals that the counters of one meter provider report. They only increase, over all runs of the provider."""

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


class Pending:
    """Updates whose counts and histograms are recorded at the next collection.

    Recording a histogram costs the caller 5 to 9 microseconds a point; a five-head update has seven that need no
    trace context (only the exemplars of the KL itself refer to the update). The first thread that collects records
    them. Without a reader, or with one that collects rarely, the emitting thread records them every ``LIMIT`` updates:
    no update is dropped.

    Args:
        meter: creates the histograms.
    """

    LIMIT: Final = 256

    def __init__(self, meter: Meter) -> None:
        self.totals = Totals()
        self._waiting: deque[PPOUpdatePayload] = deque()
        self._lock = Lock()
        self._head_kl = create_histogram(meter, "esper.ppo.head.kl_divergence", KL_BOUNDARIES)
        self._rollout_duration = create_histogram(meter, "esper.ppo.rollout.duration", DURATION_BOUNDARIES)
        self._update_duration = create_histogram(meter, "esper.ppo.update.duration", DURATION_BOUNDARIES)

    def add(self, update: PPOUpdatePayload) -> None:
        """Store one update. Called by the emitting thread."""
        self._waiting.append(update)
        if len(self._waiting) >= self.LIMIT:
            self.drain()

    def drain(self) -> None:
        """Count and record all stored updates. Any thread."""
        if not self._waiting:
            return
        with self._lock:
            while self._waiting:
                update = self._waiting.popleft()
                self.totals.add(update)
                for head in update.heads:
                    record_finite(self._head_kl, head.kl, {"esper.ppo.head.name": head.name}, _NO_TRACE)
                record_finite(self._rollout_duration, update.rollout_s, None, _NO_TRACE)
                record_finite(self._update_duration, update.update_s, None, _NO_TRACE)


_NO_TRACE: Final = Context()
"""A context without a span: the span that is current where a reader collects is not the update's, so no exemplar."""


def create_histogram(meter: Meter, name: str, boundaries: tuple[float, ...]) -> Histogram:
    """A histogram of the registry with fixed boundaries."""
    spec = METRICS[name]
    return meter.create_histogram(spec.name, spec.unit, spec.brief, explicit_bucket_boundaries_advisory=boundaries)


def record_finite(
    histogram: Histogram,
    value: float | None,
    attributes: Mapping[str, str] | None = None,
    context: Context | None = None,
) -> None:
    """Record a finite value; estimators may round to just below 0, which a histogram refuses."""
    if value is not None and math.isfinite(value):
        histogram.record(max(value, 0.0), attributes, context)


@dataclass(slots=True)
class Observed:
    """The values that the observable instruments of one meter provider read. Any thread may read: fields change whole.

    One for each provider and not for each run: an SDK keeps only the first callback of an instrument, so a second run
    in the same process (a notebook) would otherwise report the last values of the first run.

    Attributes:
        owner: the run whose values these are: the last one that called ``take_over``.
        update: the last update.
        level: the policy's level, as the verdict has it.
        limits: the limits it was judged by.
        heartbeat_s: time of the last heartbeat, unix seconds.
        progress_s: time of the last progress, unix seconds.
        state: what the run is doing.
        sink_status: current counts of every sink.
        pending: updates not yet recorded, and the totals; they stay when the owner changes.
    """

    pending: Pending

    owner: object = None
    update: PPOUpdatePayload | None = None
    level: HealthLevel | None = None
    limits: KLLimits | None = None
    heartbeat_s: float | None = None
    progress_s: float | None = None
    state: RunState | None = None
    sink_status: Callable[[], Iterable[SinkCounts]] | None = None

    def take_over(self, owner: object, sink_status: Callable[[], Iterable[SinkCounts]] | None = None) -> None:
        """Delete all values and set ``owner``."""
        self.owner = owner
        self.update = self.level = self.limits = self.heartbeat_s = self.progress_s = self.state = None
        self.sink_status = sink_status


_observed_of: WeakKeyDictionary[MeterProvider, Observed] = WeakKeyDictionary()


def observed_of(provider: MeterProvider, meter: Meter) -> Observed:
    """The values that this provider's observable instruments read; the instruments are created at the first call."""
    seen = _observed_of.get(provider)
    if seen is None:
        seen = _observed_of[provider] = Observed(pending=Pending(meter))
        for gauge in GAUGES:
            meter.create_observable_gauge(gauge.name, [_last_value(seen, gauge)], gauge.unit, gauge.brief)
        meter.create_observable_gauge(DIVERGENCE.name, [_divergences(seen)], DIVERGENCE.unit, DIVERGENCE.brief)
        _create_counters(meter, seen.pending)
        _create_status(meter, seen)
        _create_sinks(meter, seen)
    return seen


def _last_value(seen: Observed, gauge: Gauge) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        update = seen.update
        if update is None:
            return []
        return [Observation(value, attributes) for value, attributes in gauge_values(gauge, update)]

    return observe


def _divergences(seen: Observed) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        update = seen.update
        if update is None:
            return []
        return [Observation(value, attributes) for value, attributes in divergence_values(update)]

    return observe


def _create_counters(meter: Meter, pending: Pending) -> None:
    """The update's counters. Each begins at 0, so that a backend's ``increase()`` sees the first count."""

    def fresh(name: str) -> Any:
        pending.drain()
        return getattr(pending.totals, name)

    def single(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(fresh(name))]

    def by_attribute(name: str, attribute: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(count, {attribute: key}) for key, count in tuple(fresh(name).items())]

    callbacks = {
        f"esper.ppo.{name}": single(name) for name in ("early_stops", "episodes", "steps", "clamped", "non_finite")
    }
    callbacks["esper.ppo.updates"] = by_attribute("updates", "esper.ppo.outcome")
    callbacks["esper.ppo.non_finite_fields"] = by_attribute("non_finite_fields", "esper.ppo.field")
    callbacks["esper.policy.updates"] = by_attribute("levels", "esper.ppo.health")
    for name, callback in callbacks.items():
        spec = METRICS[name]
        meter.create_observable_counter(spec.name, [callback], spec.unit, spec.brief)


def _create_status(meter: Meter, seen: Observed) -> None:
    """The gauges of the policy's level and of the run."""

    def level() -> float | None:
        return None if seen.level is None else seen.level.severity

    def state(_: CallbackOptions) -> Iterable[Observation]:
        current = seen.state
        if current is None:
            return []
        return [Observation(int(item is current), {"esper.run.state": item.value}) for item in RunState]

    def limits(_: CallbackOptions) -> Iterable[Observation]:
        known = seen.limits
        if known is None:
            return []
        sides = ((HealthLevel.WARNING, known.warning), (HealthLevel.CRITICAL, known.critical))
        return [
            Observation(value, {"esper.run.kl_limit.level": item.value, "esper.run.kl_on": known.on})
            for item, value in sides
        ]

    def single(value: Callable[[], float | None]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            found = value()
            return [] if found is None else [Observation(found)]

        return observe

    for name, callback in (
        ("esper.policy.health", single(level)),
        ("esper.run.heartbeat", single(lambda: seen.heartbeat_s)),
        ("esper.run.last_progress", single(lambda: seen.progress_s)),
        ("esper.run.state", state),
        ("esper.run.kl_limit", limits),
    ):
        meter.create_observable_gauge(name, [callback], METRICS[name].unit, METRICS[name].brief)


def _create_sinks(meter: Meter, seen: Observed) -> None:
    """Counters and the queue's gauge of every sink."""

    def sinks(attribute: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            found = seen.sink_status() if seen.sink_status is not None else ()
            counts = ((status.sink, getattr(status, attribute, None)) for status in found)
            return [Observation(count, {"esper.sink.name": sink}) for sink, count in counts if count is not None]

        return observe

    for attribute in ("delivered", "lost", "failures"):
        spec = METRICS[f"esper.sink.{attribute}"]
        meter.create_observable_counter(spec.name, [sinks(attribute)], spec.unit, spec.brief)
    spec = METRICS["esper.sink.queue"]
    meter.create_observable_gauge(spec.name, [sinks("queue")], spec.unit, spec.brief)

"""Last values and counts as observable instruments: read when a reader collects, so they cost an update nothing.

On the OpenTelemetry API alone. Which field is which gauge stands in the registry, not here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Protocol, get_args
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Observation

from esper_core.events import Outcome, PPOUpdatePayload
from esper_core.health import HealthLevel, RunState
from esper_core.semconv.gauges import gauge_values
from esper_core.semconv.names import GAUGES, METRICS, Gauge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.metrics import Meter, MeterProvider


__all__ = ["Observed", "SinkCounts", "Totals", "observed_of"]


class SinkCounts(Protocol):
    """What ``sink_status`` returns for each sink; ``SinkStatusChanged`` is one. ``queue`` may be absent."""

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
    """What the counters of one meter provider report. They only grow, over all runs that use the provider."""

    updates: dict[str, int] = field(default_factory=lambda: dict.fromkeys(get_args(Outcome), 0))
    early_stops: int = 0
    episodes: int = 0
    steps: int = 0
    clamped: int = 0
    non_finite: int = 0
    non_finite_fields: dict[str, int] = field(default_factory=dict)

    def add(self, update: PPOUpdatePayload) -> None:
        """Count one update. From the emitting thread only."""
        self.updates[update.outcome] = self.updates.get(update.outcome, 0) + 1
        if update.early_stop is not None:
            self.early_stops += 1
        self.episodes += update.episodes
        self.steps += update.steps + update.steps_forced
        self.clamped += update.clamped
        self.non_finite += update.non_finite
        for name in _non_finite_fields(update):
            # A new dict, because a reader may be walking through the old one.
            self.non_finite_fields = {**self.non_finite_fields, name: self.non_finite_fields.get(name, 0) + 1}


_FLOAT_FIELDS: Final = tuple(
    gauge.field for gauge in GAUGES if not gauge.head and "float" in str(PPOUpdatePayload.__annotations__[gauge.field])
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


@dataclass(slots=True)
class Observed:
    """What the observable instruments of one meter provider read. Fields are replaced whole: any thread may read.

    One for each provider and not for each run: an SDK keeps only the first callback of an instrument, so that a
    second run in the same process (a notebook) would otherwise show the first one's last values for ever.

    Attributes:
        owner: whose values these are; the last one that took over.
        update: the last update.
        level: the policy's level, the worst of the last three updates.
        heartbeat_s: time of the last sign of life, unix seconds.
        progress_s: time of the last progress, unix seconds.
        state: what the run is doing.
        sink_status: current counts of every sink.
        totals: what the counters report; nobody takes these over.
    """

    owner: object = None
    update: PPOUpdatePayload | None = None
    level: HealthLevel | None = None
    heartbeat_s: float | None = None
    progress_s: float | None = None
    state: RunState | None = None
    sink_status: Callable[[], Iterable[SinkCounts]] | None = None
    totals: Totals = field(default_factory=Totals)

    def take_over(self, owner: object, sink_status: Callable[[], Iterable[SinkCounts]] | None = None) -> None:
        """Forget everything and belong to ``owner``."""
        self.owner = owner
        self.update = self.level = self.heartbeat_s = self.progress_s = self.state = None
        self.sink_status = sink_status


_observed_of: WeakKeyDictionary[MeterProvider, Observed] = WeakKeyDictionary()


def observed_of(provider: MeterProvider, meter: Meter) -> Observed:
    """What this provider's observable instruments read; they are created at the first call."""
    seen = _observed_of.get(provider)
    if seen is None:
        seen = _observed_of[provider] = Observed()
        for gauge in GAUGES:
            meter.create_observable_gauge(gauge.name, [_last_value(seen, gauge)], gauge.unit, gauge.brief)
        _create_counters(meter, seen.totals)
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


def _create_counters(meter: Meter, totals: Totals) -> None:
    """The update's counters. Each begins at 0, so that a backend's ``increase()`` sees the first count."""

    def single(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(getattr(totals, name))]

    def by_attribute(name: str, attribute: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [Observation(count, {attribute: key}) for key, count in tuple(getattr(totals, name).items())]

    callbacks = {name: single(name) for name in ("early_stops", "episodes", "steps", "clamped", "non_finite")}
    callbacks["updates"] = by_attribute("updates", "esper.ppo.outcome")
    callbacks["non_finite_fields"] = by_attribute("non_finite_fields", "esper.ppo.field")
    for name, callback in callbacks.items():
        spec = METRICS[f"esper.ppo.{name}"]
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

"""Metrics computed when a reader collects, in its thread: last values, counts, histograms of heads and durations.

The trainer's thread only stores the update. Uses only the OpenTelemetry API. The registry, not this module, defines
which field is which gauge. Every point carries run id, attempt and rank as attributes, because the resource lacks them
under an application's own provider, and a scraped reader does not show it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Observation

from esper_core import forks
from esper_core.health import HealthLevel, KLLimits, RunState
from esper_core.instrumentation.pending import Histograms, Pending, Totals
from esper_core.instrumentation.system import create_system
from esper_core.semconv.gauges import DIVERGENCE, divergence_values, gauge_values
from esper_core.semconv.names import EVALUATION_GAUGES, GAUGES, METRICS, Gauge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.metrics import Meter, MeterProvider

    from esper_core.events import PolicyEvaluated, PPOUpdatePayload
    from esper_core.instrumentation.system import SystemUse
    from esper_core.semconv.attributes import AttributeValue

__all__ = ["Observed", "ObservedRuns", "SinkCounts", "runs_of"]


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
class Observed:
    """The values of one run that the observable instruments read. Any thread may read: fields change whole.

    Attributes:
        identity: run id, attempt and rank, attributes of every point.
        pending: updates not yet recorded, and the totals.
        update: the last update.
        evaluation: the last evaluation; None before the first.
        level: the policy's level, as the verdict has it.
        limits: the limits it was judged by.
        heartbeat_s: time of the last heartbeat, unix seconds.
        progress_s: time of the last progress, unix seconds.
        state: what the run is doing.
        system: what its process takes of the machine; None when that is not measured.
        sink_status: current counts of every sink.
        ended_s: when the run ended, monotonic seconds; None before.
    """

    identity: Mapping[str, AttributeValue]
    pending: Pending
    update: PPOUpdatePayload | None = None
    evaluation: PolicyEvaluated | None = None
    level: HealthLevel | None = None
    limits: KLLimits | None = None
    heartbeat_s: float | None = None
    progress_s: float | None = None
    state: RunState | None = None
    system: SystemUse | None = None
    sink_status: Callable[[], Iterable[SinkCounts]] | None = None
    ended_s: float | None = None

    def totals(self) -> Totals:
        """Return the totals, with every update so far."""
        self.pending.drain()
        return self.pending.totals

    def points(self, value: float | None) -> list[Observation]:
        """Return the point of a metric that has no other attributes; no point when ``value`` is None."""
        return [] if value is None else [Observation(value, self.identity)]


class ObservedRuns:
    """The runs whose values the observable instruments of one meter provider read.

    One for each provider and not for each run: an SDK keeps only the first callback of an instrument, so a second run
    in the same process (a notebook) would otherwise be in no metric. A run that has ended is reported for a while,
    because an application's reader may collect only after that: a run whose final state no backend received looks
    as if it had vanished.

    Args:
        meter: creates the histograms.
    """

    ENDED_KEPT_S: Final = 600.0
    """Seconds for which an ended run is reported: ten of the SDK's default export intervals."""
    ENDED_KEPT: Final = 64
    """The largest number of ended runs that are reported; the newest ones are kept."""

    def __init__(self, meter: Meter) -> None:
        self._histograms = Histograms(meter)
        self._lock = Lock()
        self._runs: tuple[Observed, ...] = ()

    def __iter__(self) -> Iterator[Observed]:
        long_ago = time.monotonic() - self.ENDED_KEPT_S
        return (run for run in self._runs if run.ended_s is None or run.ended_s > long_ago)

    def forget(self) -> None:
        """Report no run any more."""
        self._lock = Lock()
        self._runs = ()

    def add(
        self, identity: Mapping[str, AttributeValue], sink_status: Callable[[], Iterable[SinkCounts]] | None = None
    ) -> Observed:
        """Add a run. It replaces a run with the same identity, and continues its counts."""
        with self._lock:
            before = [run for run in self._runs if run.identity == identity]
            pending = before[-1].pending if before else Pending(self._histograms, identity)
            made = Observed(identity=identity, pending=pending, sink_status=sink_status)
            others = [run for run in self._runs if run not in before]
            reported = {id(run) for run in [run for run in self if run.ended_s is not None][-self.ENDED_KEPT :]}
            self._runs = (*(run for run in others if run.ended_s is None or id(run) in reported), made)
        return made


_runs_of: WeakKeyDictionary[MeterProvider, ObservedRuns] = WeakKeyDictionary()


def runs_of(provider: MeterProvider, meter: Meter) -> ObservedRuns:
    """The runs that this provider's observable instruments read; the instruments are created at the first call."""
    runs = _runs_of.get(provider)
    if runs is None:
        runs = _runs_of[provider] = ObservedRuns(meter)
        for field, gauges in _LAST.items():
            for gauge in gauges:
                points = _each(runs, _last_value(gauge, field))
                meter.create_observable_gauge(gauge.name, [points], gauge.unit, gauge.brief)
        meter.create_observable_gauge(DIVERGENCE.name, [_each(runs, _divergences)], DIVERGENCE.unit, DIVERGENCE.brief)
        _create_counters(meter, runs)
        _create_status(meter, runs)
        _create_sinks(meter, runs)
        create_system(meter, runs)
    return runs


def _forget_runs() -> None:
    """In a forked child: the runs are the parent's to report. The SDK's periodic reader exports in a child too."""
    for runs in tuple(_runs_of.values()):
        runs.forget()


forks.in_child(_forget_runs)

_Points: TypeAlias = "Callable[[Observed], Iterable[Observation]]"


def _each(runs: ObservedRuns, points: _Points) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """Return a callback that returns the points of every run."""
    return lambda _: [point for run in runs for point in points(run)]


_LAST: Final = {"update": GAUGES, "evaluation": EVALUATION_GAUGES}
"""Gauges by the field of :class:`Observed` that holds their values."""


def _last_value(gauge: Gauge, field: str) -> _Points:
    def points(run: Observed) -> Iterable[Observation]:
        last: PPOUpdatePayload | PolicyEvaluated | None = getattr(run, field)
        if last is None:
            return []
        return [Observation(value, {**run.identity, **own}) for value, own in gauge_values(gauge, last)]

    return points


def _divergences(run: Observed) -> Iterable[Observation]:
    if run.update is None:
        return []
    return [Observation(value, {**run.identity, **own}) for value, own in divergence_values(run.update)]


def _create_counters(meter: Meter, runs: ObservedRuns) -> None:
    """The update's counters. Each begins at 0, so that a backend's ``increase()`` sees the first count."""

    def single(name: str) -> _Points:
        return lambda run: run.points(getattr(run.totals(), name))

    def by_attribute(name: str, attribute: str) -> _Points:
        return lambda run: [
            Observation(count, {**run.identity, attribute: key})
            for key, count in tuple(getattr(run.totals(), name).items())
        ]

    counts = {
        f"esper.ppo.{name}": single(name) for name in ("early_stops", "episodes", "steps", "clamped", "non_finite")
    }
    counts["esper.ppo.updates"] = by_attribute("updates", "esper.ppo.outcome")
    counts["esper.ppo.non_finite_fields"] = by_attribute("non_finite_fields", "esper.ppo.field")
    counts["esper.policy.updates"] = by_attribute("levels", "esper.ppo.health")
    for name, points in counts.items():
        spec = METRICS[name]
        meter.create_observable_counter(spec.name, [_each(runs, points)], spec.unit, spec.brief)


def _create_status(meter: Meter, runs: ObservedRuns) -> None:
    """The gauges of the policy's level and of the run."""

    def state(run: Observed) -> Iterable[Observation]:
        current = run.state
        if current is None:
            return []
        return [Observation(int(item is current), {**run.identity, "esper.run.state": item.value}) for item in RunState]

    def limits(run: Observed) -> Iterable[Observation]:
        known = run.limits
        if known is None:
            return []
        sides = ((HealthLevel.WARNING, known.warning), (HealthLevel.CRITICAL, known.critical))
        return [
            Observation(value, {**run.identity, "esper.run.kl_limit.level": item.value, "esper.run.kl_on": known.on})
            for item, value in sides
        ]

    for name, points in (
        ("esper.policy.health", lambda run: run.points(None if run.level is None else run.level.severity)),
        ("esper.run.heartbeat", lambda run: run.points(run.heartbeat_s)),
        ("esper.run.last_progress", lambda run: run.points(run.progress_s)),
        ("esper.run.kl_limit", limits),
    ):
        meter.create_observable_gauge(name, [_each(runs, points)], METRICS[name].unit, METRICS[name].brief)
    spec = METRICS["esper.run.state"]
    meter.create_observable_up_down_counter(spec.name, [_each(runs, state)], spec.unit, spec.brief)


def _create_sinks(meter: Meter, runs: ObservedRuns) -> None:
    """Counters and the queue's gauge of every sink."""

    def sinks(attribute: str) -> _Points:
        def points(run: Observed) -> Iterable[Observation]:
            found = run.sink_status() if run.sink_status is not None else ()
            counts = ((status.sink, getattr(status, attribute, None)) for status in found)
            return [
                Observation(count, {**run.identity, "esper.sink.name": sink})
                for sink, count in counts
                if count is not None
            ]

        return points

    for attribute in ("delivered", "lost", "failures"):
        spec = METRICS[f"esper.sink.{attribute}"]
        meter.create_observable_counter(spec.name, [_each(runs, sinks(attribute))], spec.unit, spec.brief)
    spec = METRICS["esper.sink.queue"]
    meter.create_observable_up_down_counter(spec.name, [_each(runs, sinks("queue"))], spec.unit, spec.brief)

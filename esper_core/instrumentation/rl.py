"""The draft names ``rl.*`` as a second set, for backends that support them (``[otel] semconv = ["esper", "rl"]``).

The names are those of the open proposal open-telemetry/semantic-conventions-genai#88 and its draft registry, read in
August 2026. They are not stable: they may change with the proposal, and ``esper.*`` stays the canonical set.
Spans keep their own names (``esper.iteration`` is the proposal's ``rl.loop``, ``esper.rollout`` its
``rl.sample``, ``esper.ppo.update`` its ``rl.train``) and carry the ``rl.*`` attributes in addition.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from opentelemetry.metrics import CallbackOptions, Observation

from esper_core.semconv import identity
from esper_core.semconv.attributes import int64
from esper_core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import Histogram, Meter, MeterProvider
    from opentelemetry.trace import Span

    from esper_core.events import PPOUpdatePayload, RunStarted, TelemetryEvent
    from esper_core.instrumentation.metrics import ObservedRuns
    from esper_core.semconv.attributes import AttributeValue

__all__ = ["SCOPE_NAME", "RLInstrumentation", "rl_resource"]

SCOPE_NAME: Final = f"{identity.SCOPE_NAME}.rl"
DURATION_BOUNDARIES: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_LOSSES: Final = (
    ("policy", "policy_loss"),
    ("value", "value_loss"),
    ("kl_divergence", "kl_divergence"),
    ("entropy", "entropy"),
)


def rl_resource(*, run_id: str, environment: str) -> dict[str, str]:
    """Resource attributes of the proposal that are known when a run starts."""
    return {
        "rl.system": "esper",
        "rl.system.version": __version__,
        "rl.run.id": run_id,
        "rl.algorithm": "PPO",
        "rl.environment.name": environment,
    }


class RLInstrumentation:
    """Records an update under the proposal's names.

    Args:
        provider: creates the instruments.
        runs: the runs whose last updates the gauges read.
        identity: run id, attempt and rank, attributes of every point.
    """

    def __init__(self, provider: MeterProvider, runs: ObservedRuns, identity: Mapping[str, AttributeValue]) -> None:
        meter = provider.get_meter(SCOPE_NAME, __version__)
        self._environment = ""
        self._identity = identity
        self._loop = _duration(meter, "rl.loop.duration", "Total time for one iteration.")
        self._sample = _duration(meter, "rl.sample.duration", "Time spent collecting the rollout.")
        self._train = _duration(meter, "rl.train.duration", "Time spent in the update.")
        self._samples = meter.create_counter("rl.sample.samples", "1", "Environment steps.")
        self._episodes = meter.create_counter("rl.sample.episodes", "1", "Finished episodes.")
        self._train_steps = meter.create_counter("rl.train.steps", "1", "Optimizer steps.")
        if provider not in _provided:
            _provided.add(provider)
            _create_gauges(meter, runs)

    def run_started(self, event: TelemetryEvent[RunStarted], span: Span | None) -> None:
        """Store the environment's id, and set the run's attributes on its span."""
        self._environment = event.payload.environment
        if span is not None:
            span.set_attributes(rl_resource(run_id=event.run_id, environment=self._environment))

    def record(self, event: TelemetryEvent[PPOUpdatePayload], span: Span | None) -> None:
        """Record one update; ``span`` is the update's span when it is being recorded."""
        update = event.payload
        if span is not None:
            span.set_attributes(
                {
                    "rl.run.id": event.run_id,
                    "rl.algorithm": "PPO",
                    "rl.environment.name": self._environment,
                    "rl.loop.iteration": int64(update.update_id),
                }
            )
        sample, train = update.rollout_s, update.update_s
        if sample is not None:
            self._sample.record(sample, self._identity)
        if train is not None:
            self._train.record(train, self._identity)
            self._loop.record(train + (sample or 0.0), self._identity)
        self._samples.add(update.steps + update.steps_forced, self._identity)
        self._episodes.add(update.episodes, self._identity)
        self._train_steps.add(update.minibatches, self._identity)


_provided: WeakSet[MeterProvider] = WeakSet()


def _duration(meter: Meter, name: str, brief: str) -> Histogram:
    return meter.create_histogram(name, "s", brief, explicit_bucket_boundaries_advisory=DURATION_BOUNDARIES)


def _create_gauges(meter: Meter, runs: ObservedRuns) -> None:
    def losses(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, {**run.identity, "rl.loss.type": kind})
            for run in runs
            for kind, name in _LOSSES
            if (value := getattr(run.update, name, None)) is not None and math.isfinite(value)
        ]

    def single(name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(value, run.identity)
                for run in runs
                if (value := getattr(run.update, name, None)) is not None and math.isfinite(value)
            ]

        return observe

    meter.create_observable_gauge("rl.train.loss", [losses], "1", "Last loss, by type.")
    meter.create_observable_gauge(
        "rl.environment.reward.mean", [single("return_mean_100")], "1", "Mean return of the last 100 episodes."
    )
    meter.create_observable_gauge(
        "rl.environment.episode.length.mean", [single("episode_length_mean")], "1", "Mean steps per episode."
    )

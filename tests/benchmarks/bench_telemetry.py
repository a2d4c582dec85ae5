"""What telemetry costs one PPO update, in CPU time of the calling thread. Bound: 250 microseconds.

    python tests/benchmarks/bench_telemetry.py [--updates 2000] [--check]

A five-head update with every field set goes through the emitter with the SDK (batch span processor, metric reader),
the instrumentation and the journal's writer. Parts are measured on their own and need not add up exactly. Medians of
chunks: other load on the machine moves them little. ``--check`` exits with 1 above the bound.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from esper_core.config.schema import OtelConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.events import EarlyStop, EpisodeFinished, HeadStats, PPOUpdatePayload, TelemetryEvent
from esper_core.health import HealthLevel
from esper_core.health.window import PolicyWindow
from esper_core.hooks import SinkHooks
from esper_core.instrumentation.sink import Instrumentation
from esper_core.ppo.episodes import EpisodeTracker
from esper_core.runs.creation import create_run
from esper_core.runs.writer import JournalWriter
from esper_core.semconv._plan import plan_of
from esper_core.semconv.attributes import span_events
from esper_core.semconv.codec import encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.semconv.attributes import AttributeValue

BOUND_US = 250.0
HEADS = ("operations", "slot", "blueprint", "tempo", "tempo_offset")
RESOURCE: dict[str, AttributeValue] = {
    "service.name": "esper",
    "service.version": "0.1.0",
    "service.instance.id": "a" * 36,
    "process.pid": 4711,
}


class NullExporter(SpanExporter):
    """Takes spans and drops them: the export itself is not the caller's cost."""

    def export(self, spans: object) -> SpanExportResult:  # the interface's argument
        """Drop them."""
        return SpanExportResult.SUCCESS


def full_payload() -> PPOUpdatePayload:
    """An update with every field set and four epochs, stopped early."""
    heads = tuple(
        HeadStats(
            name=name,
            kl=0.0123456789 / (index + 1),
            decisions=1024 - index,
            weight=0.987654321 / (index + 1),
            share=0.2123456789,
            entropy=1.23456789,
            entropy_normalised=0.7654321,
            clip_fraction=0.123456789,
        )
        for index, name in enumerate(HEADS)
    )
    payload = PPOUpdatePayload(
        update_id=1,
        outcome="early_stopped",
        health=HealthLevel.CRITICAL,  # as the recorder fills it in
        reason="pooled KL over the limit",
        heads=heads,
        kl_by_epoch=(0.0012345678, 0.0112345678, 0.0212345678, 0.0312345678),
        early_stop=EarlyStop(epoch=4, minibatch=3, value=0.0312345, threshold=0.03, head="slot"),
        stop_window=4,
    )
    floats: dict[str, Any] = {  # Any: by name, which a type checker cannot tell from the other fields
        item.name: 0.0123456789 * (index + 1)
        for index, item in enumerate(fields(payload))
        if "float" in str(item.type) and item.name != "kl_by_epoch"
    }
    return replace(payload, kl_divergence=0.0123456789, **{k: v for k, v in floats.items() if k != "kl_divergence"})


class Hooks(SinkHooks):
    """Calls each part in turn, as the host's hub does for inline sinks."""

    def __init__(self, *parts: Callable[[TelemetryEvent[PPOUpdatePayload]], object]) -> None:
        self._parts = parts

    def esper_ppo_updated(self, event: TelemetryEvent[PPOUpdatePayload]) -> None:
        """Call them."""
        for part in self._parts:
            part(event)


def cost_us(call: Callable[[], object], count: int, between: Callable[[], object] = bool) -> float:
    """Median over chunks of the calling thread's CPU time per call, in microseconds.

    ``between`` runs untimed after each chunk: what background threads do between two updates of real training (at
    most some tens a second): export spans, collect metrics.
    """
    chunk = 50
    costs = []
    for _ in range(max(4, count // chunk)):
        begin = time.thread_time_ns()
        for _ in range(chunk):
            call()
        costs.append((time.thread_time_ns() - begin) / chunk / 1000)
        between()
    return statistics.median(costs[2:])


def updates(emitter: TelemetryEmitter, payload: PPOUpdatePayload) -> Callable[[], object]:
    """One iteration's worth of emitting."""

    def call() -> object:
        emitter.begin_rollout(1)
        emitter.begin_update(1)
        emitter.end_update(1)
        return emitter.emit_ppo_update(payload)

    return call


def append_us(folder: Path, event: TelemetryEvent[PPOUpdatePayload], count: int, *, packs: bool) -> float:
    """The caller's CPU time per append, in microseconds, with or without the compressing thread behind it."""
    folder.mkdir()
    writer = JournalWriter(create_run(folder), attempt=1, rank=0, resource=RESOURCE, compress=packs)
    found = cost_us(lambda: writer.append(event), count)
    writer.close()
    return found


def episodes_ms() -> float:
    """The caller's CPU time for 10,000 episodes in eight environments that no sink receives, in milliseconds."""
    emitter = TelemetryEmitter(heard=frozenset({PPOUpdatePayload.kind}))
    tracker = EpisodeTracker(8)
    reward, ended, cut = np.ones(8), np.ones(8, dtype=bool), np.zeros(8, dtype=bool)
    costs = []
    for _ in range(9):
        begin = time.thread_time_ns()
        for _ in range(1250):
            if finished := tracker.step(reward, ended, cut, env_steps=1, told=emitter.hears(EpisodeFinished.kind)):
                emitter.emit_episodes(finished)
        tracker.drain()
        costs.append((time.thread_time_ns() - begin) / 1e6)
    return statistics.median(costs)


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--check", action="store_true", help="exit with 1 above the bound")
    options = parser.parse_args()
    count = options.updates
    payload = full_payload()

    def sdk() -> tuple[TracerProvider, Instrumentation]:
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(NullExporter()))
        meters = MeterProvider([reader], shutdown_on_exit=False)
        return tracers, Instrumentation(meters, config=OtelConfig(), window=window)

    reader = InMemoryMetricReader()
    window = PolicyWindow[PPOUpdatePayload]()  # the session gives emitter and instrumentation the same one
    tracers, instrumentation = sdk()

    def background() -> None:
        tracers.force_flush()
        reader.get_metrics_data()

    def later() -> None:
        pending = instrumentation._observed.pending  # a part
        pending.add(payload, INVALID_SPAN_CONTEXT)
        pending.drain()

    tracer = tracers.get_tracer("esper_core")
    with tempfile.TemporaryDirectory() as folder:
        writer = JournalWriter(create_run(Path(folder)), attempt=1, rank=0, resource=RESOURCE)
        event = TelemetryEmitter(run_id="bench").emit_ppo_update(payload)
        line = encode(event, RESOURCE)
        whole = Hooks(instrumentation.esper_event, writer.append)
        sampled = TelemetryEmitter(
            whole, tracer=tracer, window=window, complete=instrumentation.complete, ends_later=True
        )
        silent = Instrumentation(config=OtelConfig())
        unsampled = Hooks(silent.esper_event, writer.append)
        rows = [
            ("emitter alone, no SDK, nobody listens", updates(TelemetryEmitter(), payload)),
            ("emitter with the SDK's three spans", updates(TelemetryEmitter(tracer=tracer), payload)),
            ("attributes of the event (function alone)", lambda: plan_of(type(payload)).write({}, payload)),
            ("span events of the event (function alone)", lambda: span_events(event)),
            (f"encode to OTLP JSON ({len(line)} bytes)", lambda: encode(event, RESOURCE)),
            ("journal append (encode and write)", lambda: writer.append(event)),
            ("all, without an SDK: emitter and journal", updates(TelemetryEmitter(unsampled), payload)),
            ("all: emitter, SDK, instrumentation, journal", updates(sampled, payload)),
        ]
        gc.collect()
        behind = cost_us(later, count, background)
        print(
            f"{'part':<48}{'microseconds per update':>24}   (Python {sys.version.split()[0]}, {os.cpu_count()} cores)"
        )
        for name, call in rows:
            print(f"{name:<48}{cost_us(call, count, background):>24.1f}")
        total = cost_us(rows[-1][1], count, background)
        told = append_us(Path(folder) / "packed", event, count, packs=True)
        alone = append_us(Path(folder) / "plain", event, count, packs=False)
        writer.close()
        sampled.close()
    print(f"journal append of {count} updates, with and without compression behind it: {told:.1f} and {alone:.1f}")
    print(f"10,000 finished episodes that no sink receives: {episodes_ms():.1f} ms")
    print(f"not the caller's: {behind:.1f} in the reader's thread for counts and histograms")
    tracers.shutdown()
    print(f"all again: {total:.1f}; bound {BOUND_US:.0f}: {'held' if total <= BOUND_US else 'broken'}")
    return 1 if options.check and total > BOUND_US else 0


if __name__ == "__main__":
    sys.exit(main())

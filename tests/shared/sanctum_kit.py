"""Events, runs on disk and models for Sanctum's tests: what their fixture ``kit`` gives."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from esper_core.events import (
    EarlyStop,
    HeadStats,
    Payload,
    PPOUpdatePayload,
    RunFinished,
    RunStarted,
    SpanRef,
    TelemetryEvent,
    TraceRef,
)
from esper_core.health import RunState, classify_kl
from esper_core.reading.account import SinkAccount
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.life import Life
from esper_core.reading.model import RunRow, ScreenModel, build
from esper_core.reading.source import MemorySource
from esper_core.runs import JournalWriter, RunDir, RunRecord, SinkRecord, process_identity, write_record
from esper_core.semconv.attributes import span_name
from esper_sink_tui.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Kit"]

SECOND = 1_000_000_000
HEADS = ("slot", "blueprint", "tempo", "tempo_offset", "operations")
SHARES = (0.12, 0.08, 0.61, 0.02, 0.17)


class Kit:
    """Makes events, runs and models."""

    second = SECOND

    def event(self, payload: Payload, *, at: float = 0.0, run_id: str = "run-a", attempt: int = 1) -> Any:
        moment = int(at * SECOND)
        key = f"{run_id}{attempt}{moment}{payload.kind}"
        number = int.from_bytes(key.encode()[-7:]) or 1
        span = SpanRef(name=span_name(payload), span_id=f"{number:016x}", start_ns=moment, end_ns=moment)
        trace = TraceRef(trace_id=f"{number:032x}", spans=(span,))
        return TelemetryEvent(time_ns=moment, run_id=run_id, attempt=attempt, trace=trace, payload=payload)

    def started(self, **values: Any) -> RunStarted:
        plan = {"environment": "morphogenesis", "heads": HEADS, "run_name": "drift", "updates_planned": 40}
        return RunStarted(**{**plan, "target_kl": 0.015, "stop_threshold": 0.0225, **values})

    def update(self, number: int, kl: float | None = 0.004, **values: Any) -> PPOUpdatePayload:
        known = kl if kl is not None else 0.0
        heads = tuple(
            HeadStats(
                name=name,
                kl=known * share * 2.4,
                decisions=100 + place,
                weight=1.0 - place / 10,
                share=share,
                entropy=0.8,
                entropy_normalised=0.7 - place / 10,
                clip_fraction=0.1,
            )
            for place, (name, share) in enumerate(zip(HEADS, SHARES, strict=True))
        )
        calm: dict[str, Any] = {
            "kl_joint": known * 1.6,
            "heads": heads,
            "target_kl": 0.015,
            "stop_threshold": 0.0225,
            "epochs": 4,
            "epochs_planned": 4,
            "clip_fraction": 0.12,
            "entropy": 1.0,
            "entropy_normalised": 0.7,
            "explained_variance": 0.6,
            "grad_norm": 1.5,
            "advantage_std": 1.0,
            "value_loss": 0.4,
            "policy_loss": -0.013,
            "learning_rate": 3e-4,
            "return_mean": 20.0 + number,
            "return_mean_100": 18.0 + number,
            "rollout_s": 2.0,
            "update_s": 1.2,
            "steps_per_s": 18400.0,
            "env_steps": number * 1024,
            "episodes": 3,
        }
        health = values.pop("health", classify_kl(kl))
        return PPOUpdatePayload(update_id=number, kl_divergence=kl, health=health, **{**calm, **values})

    def stop(self, value: float, **values: Any) -> EarlyStop:
        return EarlyStop(**{"epoch": 2, "minibatch": 3, "value": value, "threshold": 0.0225, "head": "tempo", **values})

    def drift(self, count: int, *, run_id: str = "run-a", start: float = 0.0) -> list[Any]:
        """A run whose KL climbs through the limits, stopping early from the warning on."""
        rnd = random.Random(3)
        events = [self.event(self.started(), at=start, run_id=run_id)]
        for number in range(1, count + 1):
            kl = 0.004 + 0.0006 * number + rnd.random() * 0.002
            stop = self.stop(kl * 1.2) if kl > 0.018 else None
            payload = self.update(
                number,
                kl,
                early_stop=stop,
                outcome="early_stopped" if stop else "completed",
                clip_fraction=0.1 + 0.004 * number,
                entropy_normalised=max(0.8 - 0.01 * number, 0.05),
                explained_variance=min(0.2 + 0.015 * number, 0.95),
                grad_norm=1.5 + rnd.random() * 0.3,
                advantage_std=0.98 + rnd.random() * 0.1,
            )
            events.append(self.event(payload, at=start + number * 3.2, run_id=run_id))
        return events

    def fed(self, events: Iterable[Any], run_id: str = "") -> SanctumAggregator:
        aggregator = SanctumAggregator(run_id)
        aggregator.handle_all(events)
        return aggregator

    def model(
        self, events: list[Any], *, state: RunState = RunState.LIVE, age: float = 3.0, **values: Any
    ) -> ScreenModel:
        snapshot = self.fed(events).snapshot()
        sign = max((event.time_ns for event in events), default=0)
        sinks = values.pop("sinks", (SinkAccount(name="journal", delivered=30),))
        life = Life(state=state, sign_ns=sign, pid=4711, updates=snapshot.updates, sinks=sinks)
        return build(snapshot, life, now_ns=sign + int(age * SECOND), **values)

    def watch(self, events: Iterable[Any], *, now: float = 0.0, run_id: str = "run-a") -> Watch:
        """A watch over one run in memory, read to its end, at a fixed time."""
        watch = Watch(clock_ns=lambda: int(now * SECOND))
        source = MemorySource(run_id)
        source.push(events)
        watch.add(source, select=True)
        while watch.tick():
            pass
        return watch

    def journal(self, run: RunDir, events: Iterable[Any], *, attempt: int = 1, **values: Any) -> JournalWriter:
        """Append events to a run's journal; the writer stays open."""
        writer = JournalWriter(run, attempt=attempt, rank=0, resource={"service.name": "esper"}, **values)
        for event in events:
            writer.append(event)
        return writer

    def run(self, base: Path, name: str, events: Iterable[Any] = ()) -> RunDir:
        """A run directory with these events, whose ids become the run's."""
        run = RunDir(base / name)
        (run.path / "telemetry").mkdir(parents=True)
        self.journal(run, [replace(event, run_id=name) for event in events]).close()
        return run

    def record(self, run: RunDir, *, state: RunState = RunState.LIVE, **values: Any) -> RunRecord:
        """Write run.json, alive by default and of this process."""
        me = process_identity()
        now = time.time_ns()
        known: dict[str, Any] = {
            "heartbeat_ns": now,
            "started_ns": now - SECOND,
            "progress": 1,
            "progress_ns": now,
            "pid": me.pid,
            "host": me.host,
            "boot_id": me.boot_id,
            "pid_namespace": me.pid_namespace,
            "process_start": me.process_start,
            "sinks": [SinkRecord(name="journal", delivered=3)],
        }
        record = RunRecord(run_id=run.run_id, state=state, **{**known, **values})
        write_record(run, record, durable=False)
        return record

    def row(self, label: str, **values: Any) -> RunRow:
        return RunRow(run_id=label, label=label, **values)

    def finished(self, **values: Any) -> RunFinished:
        return RunFinished(**{"state": RunState.DONE, "reason": "40 updates done", "updates": 40, **values})

"""Runs that are emitted here through the host, and the command line."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from real_programs import READY_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Played", "esper", "play"]


@dataclass(frozen=True)
class Played:
    """A run that was emitted here, through the host, with the sinks of a real one."""

    path: Path
    report: Any
    seconds: float

    def events(self) -> list[Any]:
        from esper_core.reading import open_run

        return list(open_run(str(self.path)).events())

    def updates(self) -> list[Any]:
        return [event for event in self.events() if event.kind == "ppo_updated"]


def play(
    base: Path,
    otlp: dict[str, Any] | None,
    updates: int,
    *,
    pause_s: float = 0.0,
    kl: Callable[[int], float] = lambda _: 0.004,
    between: Callable[[int], None] = lambda _: None,
    inside_update: Callable[[int], None] = lambda _: None,
    clock_ns: Callable[[], int] = time.time_ns,
    events: Any = "span",
) -> Played:
    """Emit a run of two heads through a Session with journal and otlp; its KL is ``kl(update)``.

    Args:
        base: where runs live.
        otlp: ``[sink.otlp]``; None leaves the sink out.
        updates: how many.
        pause_s: between two updates.
        kl: KL of an update, by its number.
        between: called before each update.
        inside_update: called between rollout and the update's end.
        clock_ns: the emitter's clock, for runs of long ago.
        events: ``[otel] events``.
    """
    from esper_core.config.schema import EsperConfig, OtelConfig, RunConfig
    from esper_core.events import HeadStats, PPOUpdatePayload, RunStarted
    from esper_core.health import classify_kl
    from esper_core.host.session import Session
    from esper_core.runs.creation import create_run

    quick = {"delay_s": 0.1, "update_interval_s": 0.1, "interval_s": 0.5, "close_timeout_s": READY_S / 2}
    table = {"otlp": {**quick, **otlp}} if otlp is not None else {}
    config = EsperConfig(
        sinks=("journal", *table),
        sink=table,
        otel=OtelConfig(events=events),
        run=RunConfig(close_timeout_s=READY_S),
    )
    run = create_run(base)
    began = time.monotonic()
    with Session(config, run=run, install_signal_handlers=False, environment="toy", heads=("slot", "tempo")) as session:
        emitter = session.emitter
        emitter._clock_ns = clock_ns
        emitter.emit_run_started(RunStarted(environment="toy", heads=("slot", "tempo")))
        for number in range(1, updates + 1):
            between(number)
            emitter.begin_rollout(number)
            emitter.begin_update(number)
            inside_update(number)
            value = kl(number)
            heads = (
                HeadStats(name="slot", kl=value * 1.5, decisions=60, weight=0.6, share=0.9),
                HeadStats(name="tempo", kl=value * 0.25, decisions=40, weight=0.4, share=0.1),
            )
            times = emitter.end_update(number)
            payload = PPOUpdatePayload(
                update_id=number,
                kl_divergence=value,
                kl_joint=value * 1.1,
                health=classify_kl(value),
                rollout_s=times.rollout_s,
                update_s=times.update_s,
                steps_per_s=times.rate(100),
                kl_by_epoch=(value / 2, value),
                heads=heads,
                steps=100,
                epochs=2,
                epochs_planned=2,
                minibatches=8,
                minibatches_planned=8,
            )
            emitter.emit_ppo_update(payload)
            session.progress(updates=number, env_steps=number * 100)
            if pause_s:
                time.sleep(pause_s)
    return Played(path=run.path, report=session.report, seconds=time.monotonic() - began)


def esper(*arguments: str, cwd: Path, timeout_s: float = 250.0, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command line, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "esper_core", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"esper {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done

"""What Sanctum costs: CPU on a terminal, keys, time to the first screen of a long run, indexing, and a burst.

Run it on a machine with nothing else to do::

    python tests/benchmarks/bench_sanctum.py [--updates 100000] [--seconds 20] [--only cpu,keys,long_run,plots,burst]

Figures of CPU and of the first screen are of the real program: the viewer runs in a process of its own on a
pseudo-terminal. Those of keys are the CPU time of the screen's thread from a key to the drawn screen; updates come in.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from contextlib import suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from esper_core.events import HeadStats, PPOUpdatePayload, RunStarted, SpanRef, TelemetryEvent, TraceRef
from esper_core.health import classify_kl, format_kl
from esper_core.reading import scan_index
from esper_core.reading.aggregator import SanctumAggregator
from esper_core.reading.seriesreader import SeriesReader
from esper_core.reading.source import MemorySource
from esper_core.runs import JournalWriter, RunDir, RunRecord, process_identity, write_record
from esper_core.semconv.attributes import span_name
from esper_sink_tui.app import SanctumApp
from esper_sink_tui.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.events import Payload

SECOND = 1_000_000_000
SIZE = (120, 36)
HEADS = ("slot", "blueprint", "tempo", "tempo_offset", "operations")
KEYS = {
    "main": ("left", "right", "d", "l", "f"),
    "plot cursor": ("left", "left", "right"),
    "plot scale": ("y",),
    "plot axis": ("x",),
    "plot smoothing": ("s",),
    "plot heads": ("k",),
}
TICKS = os.sysconf("SC_CLK_TCK")


def event(payload: Payload, run_id: str, moment: int) -> TelemetryEvent[Payload]:
    number = moment % (1 << 62) + 1
    ref = SpanRef(name=span_name(payload), span_id=f"{number:016x}", start_ns=moment - 1, end_ns=moment)
    return TelemetryEvent(
        time_ns=moment, run_id=run_id, trace=TraceRef(trace_id=f"{number:032x}", spans=(ref,)), payload=payload
    )


def update(number: int) -> PPOUpdatePayload:
    """An update as the default task makes them: five heads, every field that is usually there."""
    kl = 0.004 + (number % 37) / 2000
    heads = tuple(
        HeadStats(
            name=name,
            kl=kl / (place + 1),
            decisions=400 - place,
            weight=1 / (place + 1),
            share=0.2,
            entropy=0.9,
            entropy_normalised=0.7,
            clip_fraction=0.1,
        )
        for place, name in enumerate(HEADS)
    )
    return PPOUpdatePayload(
        update_id=number,
        env_steps=number * 512,
        kl_divergence=kl,
        kl_joint=kl * 1.7,
        kl_first_minibatch=0.0,
        kl_mean=kl * 0.8,
        kl_max=kl * 1.4,
        kl_last=kl,
        kl_by_epoch=(kl / 2, kl * 0.7, kl * 0.9, kl),
        target_kl=0.02,
        stop_threshold=0.03,
        health=classify_kl(kl),
        heads=heads,
        epochs=4,
        epochs_planned=4,
        minibatches=64,
        minibatches_planned=64,
        steps=400,
        policy_loss=-0.01,
        value_loss=0.4,
        entropy=3.1,
        entropy_normalised=0.7,
        clip_fraction=0.12,
        explained_variance=0.6,
        grad_norm=1.2,
        grad_norm_max=2.2,
        advantage_mean=0.0,
        advantage_std=1.0,
        learning_rate=3e-4,
        clip_range=0.2,
        episodes=4,
        return_mean=100.0 + number % 50,
        return_mean_100=100.0,
        rollout_s=0.5,
        update_s=0.4,
        steps_per_s=560.0,
    )


def make_run(base: Path, name: str, updates: int) -> tuple[RunDir, JournalWriter]:
    """A live run with that many updates."""
    run = RunDir(base / name)
    (run.path / "telemetry").mkdir(parents=True)
    writer = JournalWriter(run, attempt=1, rank=0, resource={"service.name": "esper"})
    start = time.time_ns() - (updates + 1) * SECOND
    writer.append(event(RunStarted(environment="bench", heads=HEADS, updates_planned=updates * 2), run.run_id, start))
    for number in range(1, updates + 1):
        writer.append(event(update(number), run.run_id, start + number * SECOND))
    beat(run, updates)
    return run, writer


def beat(run: RunDir, updates: int) -> None:
    """run.json of a living trainer."""
    me, now = process_identity(), time.time_ns()
    record = RunRecord(
        run_id=run.run_id,
        pid=me.pid,
        host=me.host,
        boot_id=me.boot_id,
        pid_namespace=me.pid_namespace,
        process_start=me.process_start,
        started_ns=now - SECOND,
        heartbeat_ns=now,
        progress=updates,
        progress_ns=now,
        updates=updates,
    )
    write_record(run, record, durable=False)


class Viewer:
    """``esper sanctum`` on a pseudo-terminal."""

    def __init__(self, run: RunDir, size: tuple[int, int] = SIZE) -> None:
        self.master, worker = pty.openpty()
        fcntl.ioctl(worker, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.bytes = 0
        self.seen = b""
        self.keep = True
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "esper_core", "sanctum", str(run.path)],
            stdin=worker,
            stdout=worker,
            stderr=worker,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        os.close(worker)
        self._end = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._end.is_set():
            if select.select([self.master], [], [], 0.02)[0]:
                with suppress(OSError):
                    part = os.read(self.master, 1 << 16)
                    self.bytes += len(part)
                    if self.keep:
                        self.seen += part

    def wait_for(self, *texts: str, timeout_s: float = 60) -> float:
        """Seconds from the start of the process until all texts were drawn."""
        deadline = time.monotonic() + timeout_s
        while not all(text.encode() in self.seen for text in texts):
            if time.monotonic() > deadline:
                raise SystemExit(f"not drawn: {texts}; the last bytes were {self.seen[-2000:]!r}")
            time.sleep(0.002)
        return time.perf_counter() - self.began

    def cpu_s(self) -> float:
        stat = Path(f"/proc/{self.process.pid}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICKS

    def memory_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def close(self) -> None:
        os.write(self.master, b"q")
        self.process.wait(20)
        self._end.set()
        self._reader.join()
        os.close(self.master)


def bench_cpu(base: Path, seconds: float, size: tuple[int, int], hertz: float) -> dict[str, float]:
    """CPU of a viewer that gets so many updates a second."""
    run, writer = make_run(base, f"cpu-{size[0]}-{hertz:g}", 200)
    viewer = Viewer(run, size)
    viewer.wait_for("POLICY HEALTH", "crit .030")
    viewer.keep = False
    numbers = count(201)

    def train(for_s: float) -> None:
        began = time.perf_counter()
        for done in count(1):
            number = next(numbers)
            writer.append(event(update(number), run.run_id, time.time_ns()))
            if done % max(round(hertz), 1) == 0:
                beat(run, number)
            time.sleep(max(began + done / hertz - time.perf_counter(), 0.0))
            if time.perf_counter() - began >= for_s:
                return

    train(3.0)  # settle
    before, bytes_before, began = viewer.cpu_s(), viewer.bytes, time.perf_counter()
    train(seconds)
    took = time.perf_counter() - began
    busy = (viewer.cpu_s() - before) / took
    traffic = (viewer.bytes - bytes_before) / took
    before, began = viewer.cpu_s(), time.perf_counter()
    time.sleep(min(seconds, 8.0))
    idle = (viewer.cpu_s() - before) / (time.perf_counter() - began)
    found = {
        "updates_per_s": hertz,
        "cpu_percent": round(busy * 100, 2),
        "cpu_percent_without_updates": round(idle * 100, 2),
        "kB_per_s_to_the_terminal": round(traffic / 1000, 1),
        "memory_MiB": round(viewer.memory_mib(), 1),
    }
    viewer.close()
    writer.close()
    return found


def run_keys(size: tuple[int, int]) -> dict[str, object]:
    """``bench_keys`` in an event loop of its own."""
    return asyncio.run(bench_keys(size))


async def bench_keys(size: tuple[int, int]) -> dict[str, object]:
    """CPU milliseconds of the screen's thread for a key, median and 95th percentile; 100 updates come before each."""
    numbers = count(1)
    source = MemorySource("keys")
    source.push([event(update(next(numbers)), "keys", number * SECOND) for number in range(400)])
    watch = Watch()
    watch.add(source)
    while watch.tick():
        pass
    app = SanctumApp(watch, feed=False)
    found: dict[str, object] = {}
    async with app.run_test(size=size) as pilot:
        for name, keys in KEYS.items():
            if name == "plot cursor":
                await pilot.press("h")
                await app.workers.wait_for_complete()
                await pilot.pause()
            took = []
            for key in keys * max(40 // len(keys), 1):
                source.push([event(update(number), "keys", number * SECOND) for number in islice(numbers, 100)])
                watch.tick()
                before = time.thread_time()
                await pilot.press(key)
                took.append((time.thread_time() - before) * 1000)
            took.sort()
            found[name] = [round(statistics.median(took), 1), round(took[int(len(took) * 0.95)], 1)]
    return found


def bench_plots(base: Path, updates: int) -> dict[str, float]:
    """Seconds of CPU to read a long run's plots the first time, and once more after each of ten updates."""
    run, writer = make_run(base, "plots", updates)
    watch = Watch()
    watched = watch.add_run(run)
    while watch.tick():
        pass
    reader = SeriesReader(watched.source)
    before = time.process_time()
    reader.read(watched.snapshot)
    first = time.process_time() - before
    again = []
    for number in range(updates + 1, updates + 11):
        writer.append(event(update(number), run.run_id, time.time_ns()))
        before = time.process_time()
        reader.read(watched.snapshot)
        again.append(time.process_time() - before)
    writer.close()
    return {
        "updates": updates,
        "first_read_cpu_s": round(first, 3),
        "next_read_cpu_ms_median": round(statistics.median(again) * 1000, 1),
    }


def bench_long_run(base: Path, updates: int, repeats: int) -> dict[str, float]:
    """First complete screen of a long run, and its index."""
    run, writer = make_run(base, "long", updates)
    writer.close()
    size = sum(path.stat().st_size for path in run.telemetry.iterdir())
    last = format_kl(update(updates).kl_divergence)
    texts, plots, cpus = [], [], []
    for _ in range(repeats):
        beat(run, updates)
        viewer = Viewer(run)
        texts.append(viewer.wait_for(f"KL {last}", "POLICY HEALTH", "KL BY HEAD", "EVENTS"))
        cpus.append(viewer.cpu_s())
        plots.append(viewer.wait_for("crit .030", "LAST 120"))
        viewer.close()
    began = time.perf_counter()
    index = scan_index(run)
    took = time.perf_counter() - began
    return {
        "updates": updates,
        "journal_MB": round(size / 1e6, 1),
        "bytes_per_line": round(size / updates),
        "first_screen_s_median": round(statistics.median(texts), 3),
        "first_screen_s_max": round(max(texts), 3),
        "first_screen_cpu_s_median": round(statistics.median(cpus), 3),
        "with_plot_s_median": round(statistics.median(plots), 3),
        "index_updates_per_s": round(updates / took),
        "index_bytes_per_update": round(index.nbytes / updates, 2),
    }


def bench_burst(events: int) -> dict[str, float]:
    """Events from a source to a snapshot; and the cost of one."""
    payloads = [event(update(number), "burst", number * SECOND) for number in range(1, events + 1)]
    source = MemorySource("burst")
    source.push(payloads)
    watch = Watch()
    watched = watch.add(source)
    began = time.perf_counter()
    while watch.tick():
        pass
    took = time.perf_counter() - began
    aggregator = SanctumAggregator()
    cpu = time.process_time()
    aggregator.handle_all(payloads)
    each = (time.process_time() - cpu) / events
    cpu = time.process_time()
    for _ in range(200):
        aggregator.snapshot()
    snapshot = (time.process_time() - cpu) / 200
    return {
        "events": events,
        "lost": events - watched.aggregator.snapshot().updates,
        "seconds": round(took, 3),
        "aggregate_us_per_update": round(each * 1e6, 1),
        "snapshot_us": round(snapshot * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="cpu,keys,long_run,plots,burst")
    args = parser.parse_args()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        base = Path(folder)
        rows: dict[str, Callable[[], object]] = {
            **{
                f"cpu {width}x{height} at {hertz}/s": partial(bench_cpu, base, args.seconds, (width, height), hertz)
                for width, height, hertz in ((120, 36, 1), (120, 36, 4), (200, 60, 4))
            },
            **{
                f"keys {width}x{height}, ms [median, p95]": partial(run_keys, (width, height))
                for width, height in (SIZE, (200, 60))
            },
            "long_run": lambda: bench_long_run(base, args.updates, args.repeats),
            "plots": lambda: bench_plots(base, args.updates),
            "burst": lambda: bench_burst(20_000),
        }
        for name, measure in rows.items():
            if name.split()[0] in args.only.split(","):
                found[name] = measure()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

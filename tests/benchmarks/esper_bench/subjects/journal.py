"""The journal of 1,000 updates with five heads, beside TensorBoard's event file of the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from esper_bench.peers import TENSORBOARD
from esper_bench.row import Party, Row
from esper_bench.subjects import _loggers as loggers

if TYPE_CHECKING:
    from contextlib import ExitStack

    from esper_bench.row import Work

__all__ = ["ROWS", "UPDATES", "command", "event_file", "journaled"]

UPDATES: Final = 1000
APPENDED: Final = 250
_AS_CSV: Final = """
import csv, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
found.Reload()
names = found.Tags()["scalars"]
columns = [[event.value for event in found.Scalars(name)] for name in names]
with open(sys.argv[2], "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(names)
    table.writerows(zip(*columns))
"""


def journaled(stack: ExitStack) -> Path:
    """An ended run of :data:`UPDATES` updates, its journal compressed, in a new folder; gone after the row."""
    import bench_sanctum

    run, writer = bench_sanctum.make_run(Path(loggers.folder(stack)), "bench", UPDATES)
    writer.close()
    return run.path


def event_file(stack: ExitStack) -> str:
    """The folder of an event file with the same numbers as often, by PyTorch's writer."""
    from torch.utils.tensorboard import SummaryWriter

    place = loggers.folder(stack)
    found = loggers.numbers(loggers.payload(5))
    with SummaryWriter(place) as writer:
        for step in range(UPDATES):
            for name, value in found.items():
                writer.add_scalar(name, value, step)
    return place


def _append(stack: ExitStack) -> Work:
    from esper_core.emitter import TelemetryEmitter
    from esper_core.runs.creation import create_run
    from esper_core.runs.writer import JournalWriter

    resource = {"service.name": "esper", "service.instance.id": "a" * 36}
    writer = JournalWriter(create_run(Path(loggers.folder(stack))), attempt=1, rank=0, resource=resource)
    stack.callback(writer.close)
    event = TelemetryEmitter(run_id="bench").emit_ppo_update(loggers.payload(5))

    def work() -> int:
        for _ in range(APPENDED):
            writer.append(event)
        return APPENDED

    return work


def _json_lines(stack: ExitStack) -> Work:
    """The least that keeps a record: the standard library's encoder and one write, nothing else."""
    from dataclasses import asdict

    path = Path(loggers.folder(stack), "log.jsonl")
    file = stack.enter_context(path.open("wb", buffering=0))
    update = loggers.payload(5)

    def work() -> int:
        for _ in range(APPENDED):
            file.write(json.dumps(asdict(update)).encode() + b"\n")
        return APPENDED

    return work


def _tensorboard_append(stack: ExitStack) -> Work:
    log = loggers.tensorboard(stack)
    found = loggers.numbers(loggers.payload(5))

    def work() -> int:
        for step in range(APPENDED):
            log(found, step)
        return APPENDED

    return work


def _index(stack: ExitStack) -> Work:
    from esper_core.reading import scan_index
    from esper_core.runs import RunDir

    run = RunDir(journaled(stack))

    def work() -> int:
        return len(scan_index(run))

    return work


def _tensorboard_index(stack: ExitStack) -> Work:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = event_file(stack)

    def work() -> int:
        EventAccumulator(place, size_guidance={"scalars": 0}).Reload()
        return UPDATES

    return work


def command(words: list[str], *, things: int = 1, accepted: tuple[int, ...] = (0,)) -> Work:
    """Run a command of this interpreter, its output dropped.

    Raises:
        RuntimeError: from the turn, when the command exits with another code than the accepted ones.
    """

    def work() -> int:
        done = subprocess.run([sys.executable, *words], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode not in accepted:
            raise RuntimeError(f"{words} exited with {done.returncode}: {done.stderr.decode(errors='replace')}")
        return things

    return work


def _export(stack: ExitStack) -> Work:
    table = str(Path(loggers.folder(stack), "updates.csv"))
    return command(["-m", "esper_core", "export", str(journaled(stack)), "--csv", "-o", table], things=UPDATES)


def _tensorboard_export(stack: ExitStack) -> Work:
    table = str(Path(loggers.folder(stack), "updates.csv"))
    return command(["-c", _AS_CSV, event_file(stack), table], things=UPDATES)


ROWS: Final = (
    Row(
        "journal, append",
        "encode and write an update of 5 heads; the peers write the same numbers",
        "µs",
        _append,
        (Party("json.dumps and write", _json_lines), TENSORBOARD.doing(_tensorboard_append)),
        per="update",
        quick=True,
    ),
    Row(
        "journal, index",
        "open an ended run of 1,000 updates and find where each stands; TensorBoard's EventAccumulator loads them all",
        "µs",
        _index,
        (TENSORBOARD.doing(_tensorboard_index),),
        per="update",
        rounds=5,
    ),
    Row(
        "journal, export to CSV",
        "a command that writes 1,000 updates as a table: `esper export --csv`; EventAccumulator and Python's csv",
        "ms",
        _export,
        (TENSORBOARD.doing(_tensorboard_export),),
        per="update",
        clock="commands",
        rounds=5,
    ),
)

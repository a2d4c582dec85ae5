"""A run's curves are read column by column: they are what its updates, one by one, say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from esper_core.emitter import TelemetryEmitter
from esper_core.events import EarlyStop, HeadStats, PPOUpdatePayload
from esper_core.health import HealthLevel
from esper_core.reading import open_run
from esper_core.reading.compare import compare
from esper_core.runs import create_run
from esper_core.runs.writer import JournalWriter

if TYPE_CHECKING:
    from pathlib import Path

    from esper_core.reading.compare import ComparedRun

UPDATES = (
    PPOUpdatePayload(update_id=1, env_steps=10, outcome="skipped"),
    PPOUpdatePayload(
        update_id=2,
        env_steps=20,
        kl_joint=0.5,
        kl_divergence=0.25,
        return_mean=3.0,
        stop_on="weighted",
        stop_threshold=0.125,
        heads=(HeadStats(name="a", kl=0.5), HeadStats(name="b.kl", kl=None)),
    ),
    PPOUpdatePayload(
        update_id=3,
        env_steps=30,
        outcome="early_stopped",
        kl_divergence=0.75,
        return_mean=5.0,
        return_mean_100=4.0,
        early_stop=EarlyStop(epoch=1, minibatch=2, value=0.5, threshold=0.25),
        stop_on="weighted",
        stop_threshold=0.25,
        heads=(HeadStats(name="b.kl", kl=0.125), HeadStats(name="c", kl=1.0, kind="gaussian")),
    ),
    PPOUpdatePayload(
        update_id=4,
        env_steps=40,
        kl_divergence=math.nan,
        health=HealthLevel.NON_FINITE,
        stop_on="weighted",
        stop_threshold=0.5,
        heads=(HeadStats(name="a", kl=math.inf),),
    ),
)


def curves(path: Path) -> ComparedRun:
    ((run,),) = (group.runs for group in compare([open_run(path)]).groups)
    return run


@pytest.mark.parametrize("copies", [1, 40])
@pytest.mark.parametrize("spaced", [False, True])
def test_every_curve_is_that_of_the_updates(tmp_path: Path, *, copies: int, spaced: bool) -> None:
    """``spaced``: every third line is JSON as others write it, which is read one by one."""
    directory = create_run(tmp_path)
    writer = JournalWriter(directory, attempt=1, rank=0, resource={}, compress=False)
    emitter = TelemetryEmitter(run_id=directory.run_id)
    for number in range(copies):
        for update in UPDATES:
            emitter.begin_rollout(update.update_id)
            update_id = update.update_id + number * len(UPDATES)
            writer.append(emitter.emit_ppo_update(replace(update, update_id=update_id)))
    writer.close()
    (journal,) = (directory.path / "telemetry").glob("*.jsonl")
    if spaced:
        lines = journal.read_text().splitlines()
        lines[::3] = [json.dumps(json.loads(line)) for line in lines[::3]]
        journal.write_text("".join(f"{line}\n" for line in lines))
    run = curves(directory.path)
    nan, ids = math.nan, range(1, len(UPDATES) * copies + 1)
    assert run.updates == len(ids)
    assert run.update_ids == tuple(ids)
    assert run.env_steps == (10, 20, 30, 40) * copies
    assert run.kl == pytest.approx((nan, 0.25, 0.75, nan) * copies, nan_ok=True)
    assert run.returns == pytest.approx((nan, 3.0, 4.0, nan) * copies, nan_ok=True)
    assert run.stopped == tuple(ids[2::4])
    assert run.early_stops == copies
    assert run.non_finite == tuple(ids[3::4])
    assert run.stop_threshold == 0.5
    assert {name: list(values) for name, values in run.heads.items()} == {
        "a": pytest.approx([nan, 0.5, nan, math.inf] * copies, nan_ok=True),
        "b.kl": pytest.approx([nan, nan, 0.125, nan] * copies, nan_ok=True),
        "c": pytest.approx([nan, nan, 1.0, nan] * copies, nan_ok=True),
    }
    assert run.kinds == {"a": "categorical", "b.kl": "categorical", "c": "gaussian"}

"""The banner tells one story of one moment: level, reason, head and advice of one update; the newest KL by itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from esper_core.health import HealthLevel, RunState, VerdictKind
from esper_core.reading.glyphs import NON_FINITE
from esper_core.reading.life import Life, after_exit
from esper_core.reading.model import Frozen, build
from esper_core.reading.source import JournalSource
from esper_core.runs import SinkRecord
from esper_sink_tui.layout import Cell, cell_lines, layout, screen_lines
from esper_sink_tui.lines import plain_text
from esper_sink_tui.panels.plot import plot_panel
from esper_sink_tui.watch import Watch

if TYPE_CHECKING:
    from pathlib import Path

    from sanctum_kit import Kit

    from esper_core.reading.model import ScreenModel


def banner_of(model: ScreenModel, width: int = 160) -> list[str]:
    return [plain_text(item) for item in cell_lines(model, Cell("banner", 0, 0, width, 4))]


def roles_of(model: ScreenModel) -> dict[str, str]:
    return {text.strip(): role for text, role in cell_lines(model, Cell("banner", 0, 0, 120, 4))[0]}


def breached(kit: Kit) -> list[Any]:
    """Update 8 of ten is above the warning limit, because of another head than that of the last one."""
    events = [kit.event(kit.update(n, 0.004), at=n * 3) for n in range(1, 11)]
    high = kit.update(8, 0.0192)
    heads = tuple(replace(head, share=0.9 if head.name == "operations" else 0.02) for head in high.heads)
    events[7] = kit.event(replace(high, heads=heads), at=24)
    return events


def test_verdict_reason_head_and_advice_are_of_the_worst_update(kit: Kit) -> None:
    """Kinds 3 and 4: number, advice and head were those of another update than the verdict."""
    model = kit.model(breached(kit))
    verdict, why, next_step, _ = banner_of(model)
    assert model.verdict.kind is VerdictKind.WARNING
    assert "KL 0.004" in verdict
    assert "KL >= 0.015 in 1 of last 3 updates, worst 0.0192 at update 8; head operations carries 90%" in why
    assert "head operations drifts: lower learning_rate" in next_step
    roles = roles_of(model)
    assert roles["▲ WARNING"] == "on-warn"
    assert roles["KL 0.004"] == "title"  # it is healthy itself


def test_a_critical_row_is_named_though_the_kl_is_calm(kit: Kit) -> None:
    """Kind 7: "healthy, nothing to do" stood over a critical entropy."""
    events = [kit.event(kit.update(n, 0.004, entropy_normalised=0.036), at=n * 3) for n in range(1, 9)]
    model = kit.model(events)
    assert model.verdict.kind is VerdictKind.HEALTHY
    assert model.why == "KL 0.0040 is below 0.015; entropy 0.036 is critical"
    assert str(model.advice) == "entropy 0.036 is critical: raise entropy_coef"
    assert kit.model(events[:3]).advice is None  # warm-up


def test_an_earlier_update_has_its_own_level_beside_the_end_of_the_run(kit: Kit) -> None:
    """Kind 15: stepping back in a failed run said "failed" of every update."""
    events = [kit.event(kit.update(n, 0.0121), at=n * 3) for n in range(1, 10)]
    snapshot = kit.fed(events).snapshot()
    life = Life(state=RunState.FAILED, sign_ns=0, message="ValueError: no", updates=20, last_words=("ValueError: no",))
    back = build(snapshot, life, now_ns=0, frozen=Frozen(update_id=9, behind=11))
    assert back.verdict.kind is VerdictKind.HEALTHY
    first, why, next_step, last = banner_of(back)
    assert "● HEALTHY" in first
    assert "frozen at 9, 11 behind ✖ FAILED" in first
    assert "below 0.015" in why
    assert "nothing to do" in next_step
    assert "log:" not in last
    newest = banner_of(build(snapshot, life, now_ns=0, frozen=Frozen(update_id=9, behind=0)))
    assert "✖ FAILED" in newest[0]
    assert "ValueError: no" in newest[1]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (RunState.DONE, "done: esper eval calm plays its policy"),
        (RunState.STOPPED, "stopped: esper ppo --resume calm goes on, esper eval calm plays"),
        (RunState.FAILED, "it failed: esper ppo --resume calm goes on; see trainer.log"),
        (RunState.CRASHED, "the trainer is gone: esper ppo --resume calm goes on; see trainer.log"),
    ],
)
def test_a_run_that_ended_names_the_next_command(kit: Kit, tmp_path: Path, state: RunState, said: str) -> None:
    """Kind 26: a run that ended said "nothing to do", or "RUN" for its name."""
    run = kit.run(tmp_path, "20261125T161800Z-calm", [kit.event(kit.update(n), at=n) for n in range(1, 9)])
    kit.record(run, state=state, message="OSError: disk full" if state is RunState.FAILED else "")
    run.checkpoint.write_bytes(b"weights")
    run.log_path.write_text("Traceback\n  deep\nOSError: disk full\n\n", encoding="utf-8")
    watch = Watch()
    watch.add(JournalSource(run), select=True)
    while watch.tick():
        pass
    model = watch.model()
    assert str(model.advice) == said
    ended_badly = state in {RunState.FAILED, RunState.CRASHED}
    assert model.life.last_words[-1:] == (("OSError: disk full",) if ended_badly else ())
    run.log_path.unlink()
    silent = Watch()
    silent.add(JournalSource(run), select=True)
    while silent.tick():
        pass
    assert str(silent.model().advice) == said.removesuffix("; see trainer.log")
    run.checkpoint.unlink()
    again = Watch()
    again.add(JournalSource(run), select=True)
    while again.tick():
        pass
    told = str(again.model().advice)
    assert "--resume" not in told
    assert "calm" in told


def test_a_child_that_was_killed_is_crashed_at_once_and_says_by_which_signal(kit: Kit, tmp_path: Path) -> None:
    """Kind 9: a killed child was live for 12 seconds, and its signal was not told."""
    run = kit.run(tmp_path, "run-a", [kit.event(kit.update(n), at=n) for n in range(1, 9)])
    kit.record(run)
    watch = Watch()
    watch.add_run(run, select=True).exit_code = lambda: 137
    while watch.tick():
        pass
    model = watch.model()
    assert model.verdict.kind is VerdictKind.CRASHED
    assert model.why == "the trainer was killed by SIGKILL"
    done = Life(state=RunState.DONE)
    assert after_exit(done, 0) is done
    assert after_exit(Life(state=RunState.LIVE), None).state is RunState.LIVE
    assert after_exit(Life(state=RunState.LIVE), 3).message == "the trainer ended with exit code 3"
    assert after_exit(Life(state=RunState.LIVE), 255).message == "the trainer ended with exit code 255"


def test_after_nan_nothing_waits(kit: Kit) -> None:
    """Kind 16: a run that had failed "waited", and its advice was cut and no cure."""
    missing = dict.fromkeys(("clip_fraction", "entropy_normalised", "explained_variance", "grad_norm", "policy_loss"))
    calm = [kit.event(kit.update(n), at=n) for n in range(1, 9)]
    heads = tuple(replace(head, kl=None, share=None, entropy_normalised=None) for head in kit.update(9).heads)
    broken = kit.update(9, None, non_finite=64, heads=heads, health=HealthLevel.NON_FINITE, **missing)
    life = Life(state=RunState.FAILED, updates=9, kept="checkpoint", message="NonFiniteError: update 9")
    snapshot = kit.fed([*calm, kit.event(broken, at=9)]).snapshot()
    model = build(snapshot, life, now_ns=0, label="drift")
    text = "\n".join(plain_text(item) for item in screen_lines(model, 120, 35))
    for word in ("… wait", "idle", "warm-up done", "waiting"):
        assert word not in text, word
    assert f"{NON_FINITE} NaN/Inf" in text
    next_line = text.splitlines()[2].strip()
    assert next_line == (
        "next: NaN or Inf: check rewards and observations, then esper ppo --resume drift --set ppo.learning_rate=0.0001"
    )
    plot = [plain_text(item) for item in plot_panel(model, 53, 12)]
    assert plot[1].count(NON_FINITE) == 1, "the update that was not finite is marked where it lies"
    assert plot[1].rstrip(" │").endswith(NON_FINITE)
    theirs = replace(life, message="NaN or Inf in update 9: reward of environment 0 is nan")
    advice = build(snapshot, theirs, now_ns=0, label="drift").advice
    assert str(advice) == "NaN or Inf: mend the environment, then esper ppo --resume drift", "no rate cures a reward"


def test_the_one_line_is_always_the_verdict_with_the_kl(kit: Kit) -> None:
    for kl in (0.004, 0.02, 0.0322, 0.014996, math.nan):
        for count in (2, 8):
            events = [kit.event(kit.update(n, kl), at=n) for n in range(1, count + 1)]
            for state in RunState:
                model = kit.model(events, state=state)
                (shown,) = (plain_text(item) for item in screen_lines(model, 30, 5))
                assert len(shown) == 30
                kind = model.verdict.kind.value.upper()
                assert kind in shown
                assert f"KL {'non-finite' if math.isnan(kl) else f'{kl:.3f}' if kl != 0.014996 else '0.01499'}" in shown


def test_a_very_low_screen_has_the_kl_s_row_first(kit: Kit) -> None:
    """Kind 27: a panel of one row was its header alone."""
    cell = next(item for item in layout(40, 6) if item.name == "health")
    (row,) = (plain_text(item) for item in cell_lines(kit.model(kit.drift(30)), cell))
    assert row.startswith("KL nats")


def test_lost_events_name_the_run_and_the_sink(kit: Kit, tmp_path: Path) -> None:
    """It said ``esper replay RUN --to SINK``, even where the journal itself had lost them."""
    run = kit.run(tmp_path, "20261125T161800Z-calm", [kit.event(kit.update(n), at=n) for n in range(1, 9)])
    run.checkpoint.write_bytes(b"weights")
    live, done = RunState.LIVE, RunState.DONE
    said = {
        (
            "otlp/Batch",
            live,
        ): "events were lost: esper replay calm --to otlp once it has ended sends what the journal holds",
        ("otlp/Batch", done): "events were lost: esper replay calm --to otlp sends what the journal holds",
        ("journal", live): "events were lost: see trainer.log of calm and its disk",
        ("journal", done): "done: esper eval calm plays its policy",
    }
    for (sink, state), action in said.items():
        kit.record(run, state=state, sinks=[SinkRecord(name=sink, lost=3)])
        watch = Watch()
        watch.add(JournalSource(run), select=True)
        while watch.tick():
            pass
        model = watch.model()
        assert model.verdict.kind is VerdictKind.LOSSY
        assert str(model.advice) == action

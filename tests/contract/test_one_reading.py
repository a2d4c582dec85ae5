"""One recorded run, shown by everybody: value, level, trend, stops and losses agree, through the real commands."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from esper_core.config.schema import EsperConfig, HealthConfig
from esper_core.events import HeadStats, PolicyHealthChanged, PPOUpdatePayload, RunFinished, RunStarted
from esper_core.health import HealthLevel, KLLimits, RunState, format_kl, update_level
from esper_core.host.session import Session
from esper_core.reading import open_run
from esper_core.reading.glyphs import ARROWS, LEVELS
from esper_core.reading.sentences import level_word
from esper_core.runs import create_run

pytest.importorskip("esper_sink_tui", reason="the viewer is a plugin")
pytest.importorskip("esper_sink_console", reason="the console is a plugin")

DRIFT = Path(__file__).resolve().parents[2] / "docs/examples/runs/drift"
LINE = re.compile(
    r"update +(?P<id>\d+) +return +\S+ +(?:joint )?KL +"
    r"(?P<kl>\S+) (?P<arrow>.) (?P<glyph>\S) (?P<level>\S+)(?P<rest>.*)"
)
LEVELS_BY_GLYPH = {sign.glyph: level_word(level) for level, sign in LEVELS.items()}


@dataclass(frozen=True)
class Told:
    """What one of them says of the run's last update, and of the run."""

    update: int
    kl: str
    level: str
    trend: str
    stops: int


def esper(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esper_core", *words], capture_output=True, text=True, timeout=250, check=False
    )


def cut(folder: Path, last: int, **record: Any) -> Path:
    """A copy of the recorded run that ends after an update, with other words in ``run.json``."""
    run = folder / DRIFT.name
    shutil.copytree(DRIFT, run)
    (run / "summary.json").unlink()
    journal = next((run / "telemetry").iterdir())
    lines = journal.read_bytes().splitlines(keepends=True)
    mark = f'"esper.ppo.update_id","value":{{"intValue":"{last}"'.encode()
    ends = next(place for place, line in enumerate(lines) if mark in line)
    journal.write_bytes(b"".join(lines[: ends + 1]))
    known = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**known, "updates": last, **record}))
    return run


def told_by_lines(text: str) -> Told:
    """What a listing says: the console's, or that of ``esper replay``."""
    found = [match for match in map(LINE.search, text.splitlines()) if match is not None]
    last = found[-1]
    assert LEVELS_BY_GLYPH[last["glyph"]] == last["level"]
    trends = {sign: word for word, sign in ARROWS.items()}
    stops = sum("early stop" in match["rest"] for match in found[-10:])
    return Told(int(last["id"]), last["kl"], last["level"], trends[last["arrow"]], stops)


def told_by_sanctum(run: Path, name: str = "KL") -> tuple[Told, dict[str, Any]]:
    shown = json.loads(esper("sanctum", str(run), "--once", "--json").stdout)
    updates = [item for item in shown["events"] if item["source"] == "ppo.update"]
    kl = shown["kl"]
    told = Told(
        update=updates[-1]["update_id"],
        kl=kl["text"],
        level=updates[-1]["tone"].replace("_", "-") if updates[-1]["tone"] not in {"info", "stop"} else "healthy",
        trend=kl["trend"],
        stops=shown["early_stop"]["stopped"],
    )
    assert updates[-1]["text"].startswith(f"{name} {kl['text']}")
    return told, shown


@pytest.mark.parametrize("last", [3, 9, 16, 20, 21])
def test_value_level_trend_and_stops_agree(tmp_path: Path, last: int) -> None:
    run = cut(tmp_path, last)
    replayed = esper("replay", str(run)).stdout
    console = esper("replay", str(run), "--to", "console").stderr
    sanctum, shown = told_by_sanctum(run)
    rows = [json.loads(line) for line in esper("export", str(run), "--jsonl").stdout.splitlines()]
    (listed,) = json.loads(esper("runs", "--dir", str(tmp_path), "--json").stdout)
    judged = open_run(run).verdict()

    assert sanctum.update == last
    assert told_by_lines(replayed) == sanctum
    assert told_by_lines(console) == sanctum
    assert rows[-1]["update_id"] == last
    assert rows[-1]["health"].replace("_", "-") == sanctum.level
    assert sum("early_stop.epoch" in row for row in rows[-10:]) == sanctum.stops
    for value in (rows[-1].get("kl_divergence"), listed["kl_divergence"], shown["kl"]["value"]):
        assert format_kl(value) == sanctum.kl
    assert listed["updates"] == last
    assert {listed["verdict"], shown["verdict"]["label"], judged.label} == {judged.label}
    assert {listed["reason"], shown["verdict"]["reason"]} == {judged.reason}
    assert replayed.splitlines()[-1].endswith(f"verdict {judged.label}: {judged.reason}")


@pytest.mark.parametrize(
    ("sinks", "reason"),
    [
        ([{"name": "archive", "keeps_record": True, "lost": 2}], "the journal lost 2 events"),
        ([{"name": "journal", "lost": 2}], "the journal lost 2 events"),  # a run of 0.1: the name decides
        ([{"name": "journal", "keeps_record": False, "lost": 2}], "events lost by sinks: journal 2"),
        ([{"name": "journal", "lost": 0}, {"name": "otlp", "lost": 5}], "events lost by sinks: otlp 5"),
    ],
)
def test_losses_agree(tmp_path: Path, sinks: list[dict[str, Any]], reason: str) -> None:
    run = cut(tmp_path, 9, state="done", message="", sinks=sinks)
    _, shown = told_by_sanctum(run)
    (listed,) = json.loads(esper("runs", "--dir", str(tmp_path), "--json").stdout)
    replayed = esper("replay", str(run)).stdout.splitlines()[-1]
    assert open_run(run).verdict().reason.startswith(reason)
    assert listed["verdict"] == shown["verdict"]["kind"] == "lossy"
    assert listed["reason"].startswith(reason)
    assert shown["verdict"]["reason"] == listed["reason"]
    assert replayed.endswith(listed["reason"])
    assert {item["name"]: item["lost"] for item in shown["sinks"]} == {item["name"]: item["lost"] for item in sinks}


def test_the_summary_of_the_run_says_the_same() -> None:
    run = open_run(DRIFT)
    summary, judged = run.summary, run.verdict()
    assert summary is not None
    updates = list(run.updates())
    last = updates[-1].payload
    assert summary["verdict"] == judged.label
    assert summary["verdict_reason"] == judged.reason
    assert summary["health"] == last.health.value
    assert summary["kl_divergence"] == last.kl_divergence
    assert summary["updates"] == last.update_id
    assert summary["early_stops"] == sum(item.payload.early_stop is not None for item in updates)
    assert run.record is not None
    assert summary["lost"] == sum(sink.lost for sink in run.record.sinks)


def drifting(folder: Path, limits: KLLimits, judged: float) -> Path:
    """A run of six updates under limits of its own, whose last one is at ``judged``; the other KL says the opposite."""
    config = EsperConfig(
        sinks=("journal",),
        health=HealthConfig(kl_on=limits.on, kl_warning=limits.warning, kl_critical=limits.critical),
    )
    run = create_run(folder)
    with Session(config, run=run, environment="mine", install_signal_handlers=False) as session:
        session.emitter.emit_run_started(RunStarted(environment="mine", heads=("a", "b")))
        for number in range(1, 7):
            value = judged * number / 6
            kl, joint = (0.9, value) if limits.on == "joint" else (value, 0.0)
            level = update_level(kl, kl_joint=joint, non_finite=0, limits=limits)
            update = PPOUpdatePayload(update_id=number, kl_divergence=kl, kl_joint=joint, health=level)
            session.emitter.emit_ppo_update(update)
    return run.path


@pytest.mark.parametrize(
    ("limits", "judged", "level"),
    [
        (KLLimits(warning=0.002, critical=0.004), math.nextafter(0.002, 0.0), "healthy"),
        (KLLimits(warning=0.002, critical=0.004), 0.002, "warning"),
        (KLLimits(warning=0.002, critical=0.004), 0.004, "critical"),
        (KLLimits(on="joint", warning=0.05, critical=0.1), math.nextafter(0.05, 0.0), "healthy"),
        (KLLimits(on="joint", warning=0.05, critical=0.1), math.nextafter(0.1, 0.0), "warning"),
        (KLLimits(on="joint", warning=0.05, critical=0.1), 0.1, "critical"),
    ],
)
def test_limits_of_the_run_agree_everywhere(tmp_path: Path, limits: KLLimits, judged: float, level: str) -> None:
    run = drifting(tmp_path, limits, judged)
    replayed = esper("replay", str(run)).stdout
    console = esper("replay", str(run), "--to", "console").stderr
    sanctum, shown = told_by_sanctum(run, limits.name)
    (listed,) = json.loads(esper("runs", "--dir", str(tmp_path), "--json").stdout)
    table = esper("runs", "--dir", str(tmp_path)).stdout
    screen = esper("sanctum", str(run), "--once", "--width", "120", "--height", "36").stdout
    text = format_kl(judged, limits=limits)
    assert (sanctum.level, sanctum.kl) == (level, text)
    assert told_by_lines(replayed) == sanctum
    assert told_by_lines(console) == sanctum
    assert (limits.name == "joint KL") == ("joint KL" in console) == ("joint KL" in replayed)
    told = open_run(run).verdict()
    assert told.level.value == level
    assert {listed["verdict"], shown["verdict"]["label"]} == {told.label}
    assert {listed["reason"], shown["verdict"]["reason"]} == {told.reason}
    assert (listed["kl_on"], listed["kl_warning"], listed["kl_critical"]) == (
        limits.on,
        limits.warning,
        limits.critical,
    )
    assert (f"joint {text}" if limits.on == "joint" else text) in table
    banner = screen.splitlines()[0]
    assert f"{limits.name} {format_kl(judged, digits=3, limits=limits)}" in banner
    assert f"warn ≥ {limits.warning:.3f} crit ≥ {limits.critical:.3f}" in banner
    assert f"{limits.name} nats" in screen
    assert f"{limits.name.upper()} BY UPDATE" in screen


def judged_by_all(run: Path) -> set[tuple[str, str]]:
    """Label and reason, as everybody who reads the run on disk has them."""
    (listed,) = json.loads(esper("runs", "--dir", str(run.parent), "--json").stdout)
    shown = json.loads(esper("sanctum", str(run), "--once", "--json").stdout)["verdict"]
    told = open_run(run).verdict()
    return {(listed["verdict"], listed["reason"]), (shown["label"], shown["reason"]), (told.label, told.reason)}


def resumed(folder: Path, second: KLLimits, kls: tuple[float, ...], first_id: int = 6) -> tuple[Path, Any, list[Any]]:
    """A run whose second attempt has limits of its own, the level it ended at, and the changes that it told."""
    kept = RunStarted(environment="mine", heads=("a",))
    run = create_run(folder)
    for attempt, limits, ids, values in (
        (1, KLLimits(), range(1, 7), (0.001, 0.001, 0.001, 0.02, 0.2, 0.02)),
        (2, second, range(first_id, first_id + len(kls)), kls),
    ):
        config = EsperConfig(
            sinks=("journal",),
            health=HealthConfig(kl_on=limits.on, kl_warning=limits.warning, kl_critical=limits.critical),
        )
        earlier = [item.payload for item in open_run(run.path).updates_before(ids[0], 3)] if attempt > 1 else []
        with Session(
            config, run=run, attempt=attempt, environment="mine", earlier=earlier, install_signal_handlers=False
        ) as session:
            session.emitter.emit_run_started(replace(kept, first_update_id=ids[0]))
            for number, value in zip(ids, values, strict=True):
                session.emitter.emit_ppo_update(
                    PPOUpdatePayload(update_id=number, kl_divergence=value, kl_joint=2 * value)
                )
            session.emitter.emit_run_finished(RunFinished(state=RunState.DONE, updates=ids[-1]))
    events = [item.payload for item in open_run(run.path).events() if item.attempt > 1]
    changes = [item for item in events if isinstance(item, PolicyHealthChanged)]
    ended = events[-1]
    assert isinstance(ended, RunFinished)
    return run.path, ended.health, changes


def test_a_resumed_run_goes_on_from_its_own_level(tmp_path: Path) -> None:
    run, ended, changes = resumed(tmp_path, KLLimits(), (0.001, 0.001))
    told = open_run(run).verdict()
    assert (told.level, ended) == (HealthLevel.CRITICAL, HealthLevel.CRITICAL)
    assert told.reason == "KL >= 0.03 in 1 of last 3 updates, worst 0.2000 at update 5"
    assert judged_by_all(run) == {(told.label, told.reason)}
    assert changes == []  # critical before and after


def test_a_resumed_run_calms_from_its_own_level(tmp_path: Path) -> None:
    run, ended, changes = resumed(tmp_path, KLLimits(), (0.001, 0.001, 0.001))
    assert ended is HealthLevel.HEALTHY
    assert judged_by_all(run) == {("healthy", "KL 0.0010 is below 0.015")}
    assert [(item.previous, item.current) for item in changes] == [(HealthLevel.CRITICAL, HealthLevel.HEALTHY)]


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        (
            KLLimits(on="joint", warning=0.25, critical=0.5),
            ("warning", "joint KL >= 0.25 in 1 of last 3 updates, worst 0.4000 at update 5"),
        ),
        (KLLimits(warning=0.5, critical=0.9), ("healthy", "KL 0.0010 is below 0.5")),
        (
            KLLimits(warning=0.0005, critical=0.002),
            ("critical", "KL >= 0.002 in 1 of last 3 updates, worst 0.2000 at update 5"),
        ),
    ],
)
def test_a_run_resumed_with_other_limits_is_judged_by_them_alone(
    tmp_path: Path, limits: KLLimits, verdict: tuple[str, str]
) -> None:
    run, ended, _ = resumed(tmp_path, limits, (0.001, 0.001))
    assert judged_by_all(run) == {verdict}
    assert ended.value == verdict[0]


@pytest.mark.parametrize(("first", "count"), [(6, 3), (3, 3), (2, 3), (1, 3), (7, 2), (6, 0)])
def test_updates_before_are_those_below_an_id(tmp_path: Path, first: int, count: int) -> None:
    run = drifting(tmp_path, KLLimits(), 0.01)
    found = [item.payload.update_id for item in open_run(run).updates_before(first, count)]
    assert found == list(range(1, first))[max(0, first - 1 - count) :]


def test_the_end_of_a_resumed_training_says_what_the_readers_say(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="trains")
    words = ("ppo", "--env", "CartPole-v1", "--seed", "1", "--set", "ppo.target_kl=0", "--sink", "journal")
    first = esper(*words, "--dir", str(tmp_path), "--updates", "4", "--set", "ppo.learning_rate=0.03")
    assert first.returncode == 0, first.stderr
    (run,) = (item for item in tmp_path.iterdir() if (item / "run.json").is_file())
    again = esper("ppo", "--resume", str(run), "--updates", "5", "--set", "ppo.learning_rate=0.00001")
    assert again.returncode == 0, again.stderr
    ((label, reason),) = judged_by_all(run)
    assert f"verdict  {label}: {reason}" in again.stdout + again.stderr
    summary = open_run(run).summary
    assert summary is not None
    assert summary["verdict_reason"] == reason


def test_the_document_has_each_head_s_pooled_kl_and_level(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    with Session(EsperConfig(sinks=("journal",)), run=run, install_signal_handlers=False) as session:
        session.emitter.emit_run_started(RunStarted(environment="mine", heads=("busy", "slot", "idle")))
        for number, kl in enumerate((0.09, 0.09, 0.06, 0.04, 0.02), 1):
            heads = (
                HeadStats(name="busy", kl=0.004, decisions=1000, share=0.4),
                HeadStats(name="slot", kl=kl, decisions=100, share=0.6),
                HeadStats(name="idle"),
            )
            update = PPOUpdatePayload(update_id=number, kl_divergence=(4 + kl * 100) / 1100, heads=heads)
            session.emitter.emit_ppo_update(update)
    shown = json.loads(esper("sanctum", str(run.path), "--once", "--json").stdout)
    judged = {head["name"]: head["judged"] for head in shown["heads"]}
    assert judged["slot"] == {"kl": pytest.approx(0.04), "decisions": 300, "level": "critical"}
    assert judged["busy"] == {"kl": pytest.approx(0.004), "decisions": 3000, "level": "healthy"}
    assert judged["idle"] == {"kl": None, "decisions": 0, "level": "unknown"}
    assert next(head["kl"] for head in shown["heads"] if head["name"] == "slot") == 0.02
    assert shown["verdict"]["reason"].startswith("head slot at KL 0.0400 >= 0.03 over 300 decisions in 3 updates")
    assert "writes a page; for the next run, head slot drifts" in shown["verdict"]["suggestion"]
    assert judged_by_all(run.path) == {(shown["verdict"]["label"], shown["verdict"]["reason"])}

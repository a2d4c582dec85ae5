"""The limits belong to the run: every surface judges by those that it told, weighted or joint, from both sides."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import pytest
from present import payloads_of

from esper_core.config.layers import load_config
from esper_core.config.schema import EsperConfig, HealthConfig
from esper_core.emitter import TelemetryEmitter
from esper_core.errors import EXIT_USAGE, ConfigError
from esper_core.events import HeadStats, PolicyHealthChanged, PPOUpdatePayload, RunStarted
from esper_core.health import DEFAULT_KL_LIMITS, HealthLevel, KLLimits, VerdictKind, format_kl, update_level
from esper_core.host.session import Session
from esper_core.reading import SanctumAggregator, open_run, run_limits
from esper_core.reading.document import document
from esper_core.reading.index import scan_index
from esper_core.reading.judged import judge_snapshot
from esper_core.reading.life import Life
from esper_core.reading.model import build
from esper_core.reading.sentences import update_text
from esper_core.reading.updateline import update_line
from esper_core.runs import create_run

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTED = KLLimits(warning=0.002, critical=0.004)
JOINT = KLLimits(on="joint", warning=0.05, critical=0.1)
CHOICES = [
    (DEFAULT_KL_LIMITS, math.nextafter(0.015, 0.0), HealthLevel.HEALTHY),
    (DEFAULT_KL_LIMITS, 0.015, HealthLevel.WARNING),
    (DEFAULT_KL_LIMITS, 0.03, HealthLevel.CRITICAL),
    (WEIGHTED, math.nextafter(0.002, 0.0), HealthLevel.HEALTHY),
    (WEIGHTED, 0.002, HealthLevel.WARNING),
    (WEIGHTED, math.nextafter(0.004, 0.0), HealthLevel.WARNING),
    (WEIGHTED, 0.004, HealthLevel.CRITICAL),
    (JOINT, math.nextafter(0.05, 0.0), HealthLevel.HEALTHY),
    (JOINT, 0.05, HealthLevel.WARNING),
    (JOINT, math.nextafter(0.1, 0.0), HealthLevel.WARNING),
    (JOINT, 0.1, HealthLevel.CRITICAL),
]


def update(number: int, judged: float, limits: KLLimits) -> PPOUpdatePayload:
    """One whose other KL is far on the other side of every limit."""
    joint = limits.on == "joint"
    kl, other = (0.0001, judged) if joint else (judged, 5.0)
    level = update_level(kl, kl_joint=other, non_finite=0, limits=limits)
    return PPOUpdatePayload(update_id=number, kl_divergence=kl, kl_joint=other, health=level)


def told(folder: Path, limits: KLLimits, judged: float, count: int = 5) -> Path:
    """A run that a loop of one's own made: its configuration says the limits, ``RunStarted`` carries them."""
    pytest.importorskip("esper_sink_journal")
    config = EsperConfig(
        sinks=("journal",),
        health=HealthConfig(kl_on=limits.on, kl_warning=limits.warning, kl_critical=limits.critical),
    )
    run = create_run(folder)
    with Session(config, run=run, install_signal_handlers=False) as session:
        assert session.emitter.limits == limits
        session.emitter.emit_run_started(RunStarted(environment="mine"))
        for number in range(1, count + 1):
            session.emitter.emit_ppo_update(update(number, judged, limits))
    return run.path


@pytest.mark.parametrize(("limits", "judged", "level"), CHOICES)
def test_every_reader_judges_by_the_limits_that_the_run_told(
    tmp_path: Path, limits: KLLimits, judged: float, level: HealthLevel
) -> None:
    run = open_run(told(tmp_path, limits, judged))
    assert run.limits == limits
    updates = [event.payload for event in run.updates()]
    assert {item.health for item in updates} == {level}
    verdict = run.verdict()
    aggregator = SanctumAggregator()
    aggregator.handle_all(run.events())
    snapshot = aggregator.snapshot()
    assert snapshot.tamiyo.limits == limits
    assert snapshot.tamiyo.judged_kl == judged
    assert list(snapshot.tamiyo.judged_kl_history) == [round(judged, 4)] * 5
    assert list(snapshot.tamiyo.kl_divergence_history) == [round(updates[0].kl_divergence or 0.0, 4)] * 5
    seen = judge_snapshot(snapshot, Life(state=run.state))
    assert (seen.level, verdict.level) == (level, level)
    assert seen.reason == verdict.reason
    kinds = {
        HealthLevel.HEALTHY: VerdictKind.HEALTHY,
        HealthLevel.WARNING: VerdictKind.WARNING,
        HealthLevel.CRITICAL: VerdictKind.CRITICAL,
    }
    assert judge_snapshot(snapshot, Life()).kind is kinds[level]
    reason = judge_snapshot(snapshot, Life()).reason
    quoted = limits.critical if level is HealthLevel.CRITICAL else limits.warning
    assert f"{quoted:g}" in reason
    assert reason.startswith("joint KL" if limits.on == "joint" else "KL")
    shown = document(build(snapshot, Life(), now_ns=0))
    assert (shown["kl"]["on"], shown["kl"]["warning"], shown["kl"]["critical"]) == (
        limits.on,
        limits.warning,
        limits.critical,
    )
    judged_key, other_key = ("kl_joint", "kl_divergence") if limits.on == "joint" else ("kl_divergence", "kl_joint")
    assert shown["health"][judged_key]["level"] == level.value
    assert shown["health"][judged_key]["value"] == judged
    assert shown["health"][other_key]["value"] == getattr(updates[-1], other_key)
    assert shown["health"][other_key]["level"] == "unknown"
    assert shown["health"][other_key]["limits"] == {"warning": "", "critical": ""}
    text = format_kl(judged, limits=limits)
    assert shown["kl"]["text"] == text
    line = "".join(part for part, _ in update_line(updates[-1], "", limits=limits))
    assert f"{limits.name} {text}" in line
    assert update_text(updates[-1], limits).startswith(f"{limits.name} {text}")
    entry = scan_index(run.directory)[-1]
    assert entry.kl == pytest.approx(judged, rel=1e-6)
    assert entry.level is level


def test_a_run_that_told_nothing_has_the_limits_of_its_configuration_and_else_the_defaults(tmp_path: Path) -> None:
    run = create_run(tmp_path)
    assert run_limits(run) == DEFAULT_KL_LIMITS
    run.config_path.write_text('[health]\nkl_on = "joint"\nkl_warning = 0.05\nkl_critical = 0.1\n')
    assert run_limits(run) == JOINT
    run.config_path.write_text("[health]\nkl_warning = 0.05\nkl_critical = 0.01\n")
    assert run_limits(run) == DEFAULT_KL_LIMITS
    run.config_path.write_text("[health\n")
    assert run_limits(run) == DEFAULT_KL_LIMITS


@pytest.mark.parametrize(
    ("sets", "key"),
    [
        (["health.kl_warning=0.05"], "kl_warning"),
        (["health.kl_critical=0.01"], "kl_warning"),
        (["health.kl_warning=0.03"], "kl_warning"),
        (["health.kl_warning=0"], "kl_warning"),
        (["health.kl_critical=-1"], "kl_critical"),
        (["health.kl_warning=nan"], "kl_warning"),
        (["health.kl_critical=inf"], "kl_critical"),
    ],
)
def test_limits_that_judge_nothing_are_refused_by_name(tmp_path: Path, sets: list[str], key: str) -> None:
    with pytest.raises(ConfigError, match=f"health.{key}") as caught:
        load_config(no_file=True, sets=sets, cwd=tmp_path)
    assert caught.value.exit_code == EXIT_USAGE


def test_a_run_that_is_resumed_keeps_its_limits(tmp_path: Path) -> None:
    base = {"health": {"kl_on": "joint", "kl_warning": 0.05, "kl_critical": 0.1}}
    resolved = load_config(no_file=True, base=base, base_label="run", cwd=tmp_path)
    assert resolved.config.health.limits == JOINT


def test_what_a_foreign_writer_tells_is_used_only_when_it_can_judge() -> None:
    assert RunStarted(environment="x").limits == DEFAULT_KL_LIMITS
    assert RunStarted(environment="x", kl_on="joint", kl_warning=0.05, kl_critical=0.1).limits == JOINT
    assert RunStarted(environment="x", kl_warning=0.2, kl_critical=0.1).limits == DEFAULT_KL_LIMITS
    assert RunStarted(environment="x", kl_critical=math.inf).limits == DEFAULT_KL_LIMITS


def test_the_emitter_tells_the_limits_it_judges_by() -> None:
    event = TelemetryEmitter(limits=JOINT).emit_run_started(RunStarted(environment="x"))
    assert event is not None
    assert event.payload.limits == JOINT


def test_nan_in_either_kl_is_non_finite_whichever_is_judged() -> None:
    for limits in (WEIGHTED, JOINT):
        for values in ((math.nan, 0.0), (0.0, math.inf)):
            assert update_level(values[0], kl_joint=values[1], non_finite=0, limits=limits) is HealthLevel.NON_FINITE


@pytest.mark.parametrize(
    ("kl", "digits", "limits", "text"),
    [
        (0.0182, 3, DEFAULT_KL_LIMITS, "0.018"),
        (0.0004, 3, DEFAULT_KL_LIMITS, "<0.001"),
        (0.0005, 3, DEFAULT_KL_LIMITS, "0.001"),
        (0.0, 3, DEFAULT_KL_LIMITS, "0.000"),
        (0.01496, 3, DEFAULT_KL_LIMITS, "0.01496"),
        (0.0296, 3, DEFAULT_KL_LIMITS, "0.0296"),
        (0.0404, 3, KLLimits(warning=0.02, critical=0.0405), "0.040"),
        (0.0404, 3, KLLimits(warning=0.02, critical=0.0402), "0.0404"),
        (0.0152, 3, DEFAULT_KL_LIMITS, "0.015"),
        (0.0002, 3, KLLimits(warning=0.0001, critical=0.0003), "0.0002"),
        (5e-10, 4, KLLimits(warning=1e-9, critical=2e-9), "0.0000000005"),
        (3e-25, 4, KLLimits(warning=1e-24, critical=2e-24), "3e-25"),
        (0.0, 4, KLLimits(warning=1e-9, critical=2e-9), "0.0000"),
        (None, 3, DEFAULT_KL_LIMITS, "—"),
        (math.nan, 3, DEFAULT_KL_LIMITS, "non-finite"),
    ],
)
def test_a_shown_number_stands_on_its_own_side_of_the_limits(
    kl: float | None, digits: int, limits: KLLimits, text: str
) -> None:
    assert format_kl(kl, digits=digits, limits=limits) == text


def head(name: str, kl: float | None, decisions: int) -> HeadStats:
    return HeadStats(name=name, kl=kl, decisions=decisions, share=0.5)


def of_heads(number: int, *heads: HeadStats, **more: Any) -> PPOUpdatePayload:
    known = [(item.kl, item.decisions) for item in heads if item.kl is not None]
    count = sum(decisions for _, decisions in known)
    kl = sum(value * decisions for value, decisions in known) / count if count else None
    level = update_level(kl, kl_joint=None, non_finite=0)
    return PPOUpdatePayload(**({"update_id": number, "kl_divergence": kl, "heads": heads, "health": level} | more))


def test_one_head_at_critical_is_at_least_a_warning_on_every_surface_and_is_named(tmp_path: Path) -> None:
    pytest.importorskip("esper_sink_journal")
    run = create_run(tmp_path)
    with Session(EsperConfig(sinks=("journal",)), run=run, install_signal_handlers=False) as session:
        session.emitter.emit_run_started(RunStarted(environment="mine", heads=("busy", "slot")))
        for number in range(1, 6):
            session.emitter.emit_ppo_update(of_heads(number, head("busy", 0.004, 1000), head("slot", 0.06, 100)))
    judged = open_run(run.path).verdict()
    assert judged.level is HealthLevel.WARNING
    events = list(open_run(run.path).events())
    aggregator = SanctumAggregator()
    aggregator.handle_all(events)
    model = build(aggregator.snapshot(), Life(), now_ns=0)
    assert model.verdict.kind is VerdictKind.WARNING
    assert model.verdict.reason == (
        "head slot at KL 0.0600 >= 0.03 over 300 decisions in 3 updates; all heads together KL 0.0091"
    )
    assert model.advice is not None
    assert "head slot" in str(model.advice)
    changes = payloads_of(PolicyHealthChanged, (event for event in events if event.kind == "policy_health_changed"))
    assert [(item.current, item.head) for item in changes] == [(HealthLevel.WARNING, "slot")]
    assert aggregator.policy.head is not None
    assert dataclasses.asdict(aggregator.policy.head) == {
        "name": "slot",
        "kl": pytest.approx(0.06),
        "decisions": 300,
        "level": HealthLevel.CRITICAL,
    }

"""What the tests of the rules are made of: series, and checks that just these alerts fire."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from rules import ALERTS

Labels: TypeAlias = dict[str, str]
Series: TypeAlias = dict[str, str]
Fires: TypeAlias = dict[str, list[Labels]]

RUN: Final = {"job": "esper", "instance": "i", "esper_run_id": "r", "esper_run_attempt": "1", "esper_rank": "0"}
SECOND: Final = {**RUN, "instance": "j", "esper_run_attempt": "2"}
CRITICAL: Final = {"severity": "critical"}
WARNING: Final = {"severity": "warning"}


def series(name: str, values: str, process: Labels = RUN, **extra: str) -> Series:
    """One input series of a process, in promtool's notation."""
    return {"series": f"{name}{_braces({**process, **extra})}", "values": values}


def rule_test(name: str, inputs: list[Series], *checks: tuple[str, Fires], interval: str = "15s") -> dict[str, Any]:
    """At each of the times exactly these alerts fire, and no other fires or waits to."""
    return {
        "name": name,
        "interval": interval,
        "input_series": inputs,
        "promql_expr_test": [check for when, fires in checks for check in _checks(when, fires)],
    }


def _checks(when: str, fires: Fires) -> list[dict[str, Any]]:
    checks = []
    for alert in ALERTS:
        found = [{"alertname": alert, "alertstate": "firing", **labels} for labels in fires.get(alert, [])]
        checks.append(
            {
                "expr": f'ALERTS{{alertname="{alert}"}}',
                "eval_time": when,
                "exp_samples": [{"labels": f"ALERTS{_braces(labels)}", "value": 1} for labels in found],
            }
        )
    return checks


def _braces(labels: Labels) -> str:
    return "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def alive(samples: int, process: Labels = RUN, *, first: int = 0, skip: int = 0) -> list[Series]:
    """Heartbeat and progress of a run that works, one sample in 15 s, after ``skip`` intervals without one."""
    before = f"_x{skip} " if skip else ""
    beats = f"{before}{first}+15x{samples}"
    return [
        series("esper_run_heartbeat_seconds", beats, process),
        series("esper_run_last_progress_seconds", beats, process),
        series("esper_ppo_last_rollout_duration_seconds", f"{before}5x{samples}", process),
        series("esper_ppo_last_update_duration_seconds", f"{before}2x{samples}", process),
    ]


def state(live: str, ended: str, end: str = "done", process: Labels = RUN) -> list[Series]:
    """The run's state: when it was live, and when it had ended as ``end`` says."""
    return [
        series("esper_run_state", live, process, esper_run_state="live"),
        series("esper_run_state", ended, process, esper_run_state=end),
        series("esper_run_state", ended.replace("1", "0"), process, esper_run_state="stalled"),
    ]


def levels(process: Labels = RUN, **values: str) -> list[Series]:
    """The counter of updates, by level."""
    return [
        series("esper_policy_updates_total", text, process, esper_ppo_health=level) for level, text in values.items()
    ]

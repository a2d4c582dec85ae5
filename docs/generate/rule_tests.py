"""What ``promtool test rules`` proves of the rules: each alert, and the quiet of a normal end."""

from __future__ import annotations

from typing import Any, TypeAlias

import yaml

from esper_core.health import WARM_UP_UPDATES, TUIThresholds
from rules import KL

Series: TypeAlias = dict[str, str]
Fires: TypeAlias = dict[str, tuple[str, dict[str, str]]]

ALERTS = (
    "EsperKLCritical",
    "EsperKLWarning",
    "EsperNonFinite",
    "EsperEarlyStops",
    "EsperOneHeadDrifts",
    "EsperRunVanished",
    "EsperRunStalled",
    "EsperRunFailed",
    "EsperTelemetryLost",
)
_PROCESS = {"job": "esper", "instance": "i", "esper_run_id": "r", "esper_run_attempt": "1", "esper_rank": "0"}


def rule_tests() -> str:
    """The file for ``promtool test rules``."""
    critical: dict[str, str] = {"severity": "critical"}
    warning = {"severity": "warning"}
    head = {**warning, "esper_ppo_head_name": "slot"}
    sink = {**warning, "esper_sink_name": "otlp"}

    def series(name: str, values: str, **extra: str) -> Series:
        return {"series": f"{name}{_braces({**_PROCESS, **extra})}", "values": values}

    def alive(samples: int) -> list[Series]:
        """Heartbeat and progress of a run that works, one sample in 15 s, and its state."""
        return [
            series("esper_run_heartbeat_seconds", f"0+15x{samples}"),
            series("esper_run_last_progress_seconds", f"0+15x{samples}"),
            series("esper_ppo_last_rollout_duration_seconds", f"5x{samples}"),
            series("esper_ppo_last_update_duration_seconds", f"2x{samples}"),
            series("esper_ppo_last_update_id", f"1+1x{samples}"),
        ]

    def state(live: str, done: str) -> list[Series]:
        return [
            series("esper_run_state", live, esper_run_state="live"),
            series("esper_run_state", done, esper_run_state="done"),
            series("esper_run_state", done.replace("1", "0"), esper_run_state="failed"),
        ]

    def test(name: str, inputs: list[Series], fires: Fires, quiet_at: tuple[str, ...] = ()) -> dict[str, Any]:
        times = quiet_at or tuple(sorted({when for when, _ in fires.values()}))
        return {
            "name": name,
            "interval": "15s",
            "input_series": inputs,
            "promql_expr_test": [check for alert in ALERTS for check in _checks(alert, fires.get(alert), times)],
        }

    low, high = TUIThresholds.KL_WARNING, TUIThresholds.KL_CRITICAL
    below = f"{high - 1e-6:.6f}"
    tests = [
        test(
            "a normal end raises nothing, then or later",
            [*alive(40), *state("1x39 0", "0x39 1"), series(KL, "0.004x40"), series("esper_ppo_last_health", "1x40")],
            {},
            ("5m", "10m", "15m", "60m", "110m"),
        ),
        test(
            "SIGKILL: the run vanished",
            [*alive(40), *state("1x40", "0x40"), series(KL, "0.004x40"), series("esper_ppo_last_health", "1x40")],
            {"EsperRunVanished": ("12m", critical)},
        ),
        test(
            "SIGKILL, then a new attempt that lives: nothing is wrong any more",
            [
                *alive(40),
                *state("1x40", "0x40"),
                series("esper_run_heartbeat_seconds", "_x42 645+15x80", instance="j", esper_run_attempt="2"),
            ],
            {},
            ("15m", "20m"),
        ),
        test(
            "a hang: stalled, and not vanished",
            [
                series("esper_run_heartbeat_seconds", "0+15x60"),
                series("esper_run_last_progress_seconds", "0+15x20 300x40"),
                series("esper_ppo_last_rollout_duration_seconds", "5x20"),
                series("esper_ppo_last_update_duration_seconds", "2x20"),
                *state("1x60", "0x60"),
            ],
            {"EsperRunStalled": ("10m", critical)},
        ),
        test(
            "an iteration that takes minutes is no hang",
            [
                series("esper_run_heartbeat_seconds", "0+15x60"),
                series("esper_run_last_progress_seconds", "0x20 300x40"),
                series("esper_ppo_last_rollout_duration_seconds", "280x60"),
                series("esper_ppo_last_update_duration_seconds", "20x60"),
                *state("1x60", "0x60"),
            ],
            {},
            ("10m", "14m"),
        ),
        test(
            f"KL of exactly {high} in every update is critical",
            [*alive(40), *state("1x40", "0x40"), series(KL, f"{high}x40")],
            {"EsperKLCritical": ("9m", critical)},
        ),
        test(
            f"KL just below {high} is a warning",
            [*alive(40), *state("1x40", "0x40"), series(KL, f"{below}x40")],
            {"EsperKLWarning": ("9m", warning)},
        ),
        test(
            f"KL of exactly {low} is a warning",
            [*alive(40), *state("1x40", "0x40"), series(KL, f"{low}x40")],
            {"EsperKLWarning": ("9m", warning)},
        ),
        test(
            "a spike, and two updates in a row, are no streak",
            [*alive(40), *state("1x40", "0x40"), series(KL, "0.004x20 0.5 0.5 0.004x18")],
            {},
            ("5m15s", "5m30s", "6m", "9m"),
        ),
        test(
            "a spike is no streak where updates are rare either",
            [
                *alive(160),
                *state("1x160", "0x160"),
                series(KL, " ".join(["0.004 _x6"] * 6 + ["0.5 _x6"] + ["0.004 _x6"] * 6)),
            ],
            {},
            ("10m30s", "11m", "12m", "13m", "20m"),
        ),
        test(
            "rare updates (one in ten minutes) make a streak too",
            [*alive(160), *state("1x160", "0x160"), series(KL, " ".join(["0.05 _x39"] * 4))],
            {"EsperKLCritical": ("30m", critical)},
        ),
        test(
            "warm-up says nothing",
            [
                *alive(40)[:4],
                *state("1x40", "0x40"),
                series("esper_ppo_last_update_id", f"1 2 {WARM_UP_UPDATES}x38"),
                series(KL, "0.05x40"),
            ],
            {},
            ("9m",),
        ),
        test(
            "NaN in one update",
            [*alive(40), *state("1x40", "0x40"), series("esper_ppo_last_health", "1x20 4 1x19")],
            {"EsperNonFinite": ("6m", critical)},
        ),
        test(
            "most updates stop early",
            [
                *alive(160),
                *state("1x160", "0x160"),
                series("esper_ppo_early_stops_total", "0+0.8x160"),
                series("esper_ppo_updates_total", "0+0.2x160", esper_ppo_outcome="completed"),
                series("esper_ppo_updates_total", "0+0.8x160", esper_ppo_outcome="early_stopped"),
            ],
            {"EsperEarlyStops": ("39m", warning)},
        ),
        test(
            "one head carries a drift",
            [
                *alive(40),
                *state("1x40", "0x40"),
                series(KL, f"{low}x40"),
                series("esper_ppo_last_head_share_ratio", "0.9x40", esper_ppo_head_name="slot"),
                series("esper_ppo_last_head_share_ratio", "0.1x40", esper_ppo_head_name="tempo"),
            ],
            {"EsperKLWarning": ("9m", warning), "EsperOneHeadDrifts": ("9m", head)},
        ),
        test(
            "a failed run says so, and is not called vanished",
            [
                *alive(40),
                series("esper_run_state", "1x39 0", esper_run_state="live"),
                series("esper_run_state", "0x39 1", esper_run_state="failed"),
            ],
            {"EsperRunFailed": ("12m", critical)},
        ),
        test(
            "a sink that loses events",
            [
                *alive(40),
                *state("1x40", "0x40"),
                series("esper_sink_lost_total", "0x20 7x20", esper_sink_name="otlp"),
                series("esper_sink_lost_total", "0x40", esper_sink_name="journal"),
            ],
            {"EsperTelemetryLost": ("6m", sink)},
        ),
    ]
    document = {"rule_files": ["esper.rules.yml"], "evaluation_interval": "15s", "tests": tests}
    head_line = "# Generated by docs/generate; run with `promtool test rules esper.rules.test.yml`.\n"
    return head_line + yaml.safe_dump(document, sort_keys=False, width=160)


def _checks(alert: str, fires: tuple[str, dict[str, str]] | None, times: tuple[str, ...]) -> list[dict[str, Any]]:
    """One alert either fires with its labels at a time, or at none of the times."""
    if fires is None:
        expr = f'ALERTS{{alertname="{alert}"}}'
        return [{"expr": expr, "eval_time": when, "exp_samples": []} for when in times]
    when, extra = fires
    labels = {"alertname": alert, "alertstate": "firing", **_PROCESS, **extra}
    expr = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    return [{"expr": expr, "eval_time": when, "exp_samples": [{"labels": f"ALERTS{_braces(labels)}", "value": 1}]}]


def _braces(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"

"""What ``promtool test rules`` proves of the alerts on the policy."""

from __future__ import annotations

from typing import Any

from esper_core.health import WARM_UP_UPDATES, HealthLevel
from rule_test_parts import CRITICAL, RUN, WARNING, Fires, Series, alive, levels, rule_test, series, state

__all__ = ["policy_tests"]


def policy_tests() -> list[dict[str, Any]]:
    """The verdict on the policy."""
    critical, warning = HealthLevel.CRITICAL.severity, HealthLevel.WARNING.severity
    fires_critical: Fires = {"EsperKLCritical": [{**RUN, **CRITICAL}]}
    fires_warning: Fires = {"EsperKLWarning": [{**RUN, **WARNING}]}
    head = {"esper_ppo_head_name": "slot"}

    def shares() -> list[Series]:
        return [
            series("esper_ppo_last_head_share_ratio", "0.9x40", esper_ppo_head_name="slot"),
            series("esper_ppo_last_head_share_ratio", "0.1x40", esper_ppo_head_name="tempo"),
        ]

    # One update in ten minutes; the verdict of one critical update holds for three of them.
    rare = {
        "spike": [
            series("esper_policy_health", f"1x120 {critical}x120 1x120"),
            *levels(healthy="0x40 1x40 2x40 2x40 3x40 4x40 5x40 6x40 7x40", critical="0x120 1x240", warning="0x360"),
        ],
        "drift": [
            series("esper_policy_health", f"1x40 {critical}x200"),
            *levels(healthy="0x40 1x200", critical="0x80 1x40 2x40 3x40 4x40", warning="0x240"),
        ],
    }
    return [
        rule_test(
            "a critical verdict that holds is critical, and no warning beside it",
            [*alive(40), series("esper_policy_health", f"1x10 {critical}x30"), *levels(critical="0x10 0+9x30")],
            ("2m15s", {}),
            ("9m", fires_critical),
        ),
        rule_test(
            "a warning that holds is a warning",
            [*alive(40), series("esper_policy_health", f"1x10 {warning}x30"), *levels(warning="0x10 0+9x30")],
            ("9m", fires_warning),
        ),
        rule_test(
            "warning and critical in turn: a warning, and critical from more than half on",
            [
                *alive(40),
                series("esper_policy_health", f"{f'{warning} {warning} {critical} ' * 14}"),
                *levels(warning="0+6x40", critical="0+3x40"),
            ],
            ("9m", fires_warning),
        ),
        rule_test(
            "five updates a second, each second one critical: so says the counter, whatever the gauge was caught at",
            [
                *alive(40),
                series("esper_policy_health", f"{f'1 1 {critical} ' * 14}"),
                *levels(healthy="0+30x40", warning="0x40", critical="0+45x40"),
            ],
            ("9m", fires_critical),
        ),
        rule_test(
            "a verdict that is critical for 87 % of ten minutes, half of the updates calm",
            [
                *alive(40),
                series("esper_policy_health", f"{f'{critical}x6 1 ' * 6}"),
                *levels(healthy="0+13x40", warning="0x40", critical="0+12x40"),
            ],
            ("5m", fires_critical),
            ("9m", fires_critical),
        ),
        rule_test(
            "a spike, and two in a row, are calm again before anyone is woken",
            [
                *alive(40),
                series("esper_policy_health", f"1x20 {critical}x3 1x17"),
                *levels(healthy="0+3x20 60+0x1 61+3x18", warning="0x40", critical="0x20 1 2x19"),
            ],
            *((when, {}) for when in ("5m15s", "5m30s", "6m", "7m", "9m")),
        ),
        rule_test(
            "a spike where an update takes ten minutes is none either, though its verdict holds for half an hour",
            [*alive(360), *rare["spike"]],
            *((when, {}) for when in ("31m", "40m", "50m", "60m", "70m")),
        ),
        rule_test(
            "a drift where an update takes ten minutes",
            [*alive(240), *rare["drift"]],
            ("15m", {}),
            ("32m", fires_critical),
            ("55m", fires_critical),
        ),
        rule_test(
            "calm again: the alert ends",
            [
                *alive(120),
                series("esper_policy_health", f"{critical}x60 1x60"),
                *levels(healthy="0x60 0+3x60", critical="0+3x60 180x60"),
            ],
            ("14m", fires_critical),
            ("19m", {}),
        ),
        rule_test(
            "a run that ended is not asked to lower its rate",
            [
                *alive(40),
                *state("1x39 0", "0x39 1"),
                series("esper_policy_health", f"{critical}x40"),
                *levels(critical="0+3x40"),
            ],
            ("9m", fires_critical),
            ("10m15s", {}),
        ),
        rule_test(
            "warm-up mutes a warning",
            [
                *alive(40),
                series("esper_ppo_last_update_id", f"1 2 {WARM_UP_UPDATES}x38"),
                series("esper_policy_health", f"{warning}x40"),
                *levels(warning=f"1 2 {WARM_UP_UPDATES}x38"),
                *shares(),
            ],
            ("9m", {}),
        ),
        rule_test(
            "warm-up does not mute a critical level",
            [
                *alive(40),
                series("esper_ppo_last_update_id", f"1 2 {WARM_UP_UPDATES}x38"),
                series("esper_policy_health", f"{critical}x40"),
                *levels(critical=f"0 1 2 {WARM_UP_UPDATES}x37"),
            ],
            ("3m", fires_critical),
        ),
        rule_test(
            "NaN in one update",
            [
                *alive(40),
                *state("1x40", "0x40"),
                series("esper_ppo_last_health", "1x20 4 1x19"),
                series("esper_policy_health", "1x20 4x3 1x17"),
                *levels(healthy="0+1x20 20 21+1x18", critical="0x40", non_finite="0x20 1x20"),
            ],
            ("6m", {"EsperNonFinite": [{**RUN, **CRITICAL}]}),
        ),
        rule_test(
            "NaN in every update has its own alert alone",
            [
                *alive(40),
                series("esper_ppo_last_health", "4x40"),
                series("esper_policy_health", "4x40"),
            ],
            ("9m", {"EsperNonFinite": [{**RUN, **CRITICAL}]}),
        ),
        rule_test(
            "most updates stop early",
            [
                *alive(160),
                *state("1x160", "0x160"),
                series("esper_ppo_early_stops_total", "0+0.8x160"),
                series("esper_ppo_updates_total", "0+0.2x160", esper_ppo_outcome="completed"),
                series("esper_ppo_updates_total", "0+0.8x160", esper_ppo_outcome="early_stopped"),
            ],
            ("39m", {"EsperEarlyStops": [{**RUN, **WARNING}]}),
        ),
        rule_test(
            "one head carries a drift",
            [*alive(40), series("esper_policy_health", f"{warning}x40"), *levels(warning="0+3x40"), *shares()],
            ("9m", {**fires_warning, "EsperOneHeadDrifts": [{**RUN, **WARNING, **head}]}),
        ),
        rule_test(
            "one head carries the KL of a calm policy",
            [*alive(40), series("esper_policy_health", "1x40"), *levels(healthy="0+3x40"), *shares()],
            ("9m", {}),
        ),
    ]

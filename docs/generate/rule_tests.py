"""What ``promtool test rules`` proves of the rules: each alert, and the quiet of a normal end."""

from __future__ import annotations

from typing import Any

import yaml

from collector_rule_tests import collector_tests
from policy_rule_tests import policy_tests
from rule_test_parts import CRITICAL, RUN, SECOND, WARNING, Labels, alive, levels, rule_test, series, state
from rules import RUNBOOK


def rule_tests() -> str:
    """The file for ``promtool test rules``."""
    tests = [
        *_run_tests(),
        *_attempt_tests(),
        *_clock_tests(),
        *policy_tests(),
        *_way_tests(),
        *collector_tests(),
        *_given_tests(),
        *_told_tests(),
    ]
    document = {"rule_files": ["esper.rules.yml"], "evaluation_interval": "15s", "tests": tests}
    head_line = "# Written by docs/generate; run with `promtool test rules esper.rules.test.yml`.\n"
    return head_line + yaml.safe_dump(document, sort_keys=False, width=160)


def _run_tests() -> list[dict[str, Any]]:
    """A process and its end."""
    return [
        rule_test(
            "a normal end raises nothing, then or later",
            [
                *alive(40),
                *state("1x39 0", "0x39 1"),
                series("esper_policy_health", "1x40"),
                *levels(healthy="0+2x40", warning="0x40", critical="0x40"),
            ],
            *((when, {}) for when in ("5m", "10m", "12m", "15m", "60m", "110m", "125m")),
        ),
        rule_test(
            "SIGKILL: the run vanished, after two minutes and not before",
            [*alive(40), *state("1x40", "0x40"), series("esper_policy_health", "1x40")],
            ("11m15s", {}),
            ("13m", {"EsperRunVanished": [{**RUN, **CRITICAL}]}),
            ("120m", {"EsperRunVanished": [{**RUN, **CRITICAL}]}),
        ),
        rule_test(
            "a hang: stalled, and not vanished",
            [
                series("esper_run_heartbeat_seconds", "0+15x60"),
                series("esper_run_last_progress_seconds", "0+15x20 300x40"),
                series("esper_ppo_last_rollout_duration_seconds", "5x20"),
                series("esper_ppo_last_update_duration_seconds", "2x20"),
                *state("1x60", "0x60"),
            ],
            ("6m", {}),
            ("10m", {"EsperRunStalled": [{**RUN, **CRITICAL}]}),
        ),
        rule_test(
            "an iteration that takes minutes is no hang",
            [
                series("esper_run_heartbeat_seconds", "0+15x60"),
                series("esper_run_last_progress_seconds", "0x20 300x40"),
                series("esper_ppo_last_rollout_duration_seconds", "280x60"),
                series("esper_ppo_last_update_duration_seconds", "20x60"),
                *state("1x60", "0x60"),
            ],
            ("10m", {}),
            ("14m", {}),
        ),
        rule_test(
            "a failed run says so, and is not called vanished",
            [*alive(40), *state("1x39 0", "0x39 1", "failed")],
            ("12m", {"EsperRunFailed": [{**RUN, **CRITICAL}]}),
            ("13m", {"EsperRunFailed": [{**RUN, **CRITICAL}]}),
            ("25m", {}),
        ),
        rule_test(
            "a sink that loses events",
            [
                *alive(40),
                *state("1x40", "0x40"),
                series("esper_sink_lost_total", "0x20 7x20", esper_sink_name="otlp"),
                series("esper_sink_lost_total", "0x40", esper_sink_name="journal"),
            ],
            ("6m", {"EsperTelemetryLost": [{**RUN, **WARNING, "esper_sink_name": "otlp"}]}),
        ),
    ]


def _attempt_tests() -> list[dict[str, Any]]:
    """A run that goes on as a new attempt, which is another process."""
    killed = [*alive(40), *state("1x40", "0x40")]
    return [
        rule_test(
            "SIGKILL, then a new attempt that lives: nothing is wrong any more",
            [*killed, *alive(80, SECOND, first=645, skip=43)],
            ("15m", {}),
            ("20m", {}),
            ("30m", {}),
        ),
        rule_test(
            "SIGKILL, then a new attempt that ends in order: the first is not missed again",
            [
                *killed,
                *alive(40, SECOND, first=645, skip=43),
                *state("_x43 1x39 0", "_x43 0x39 1", process=SECOND),
            ],
            *((when, {}) for when in ("15m", "21m", "24m", "60m", "125m", "131m", "140m")),
        ),
        rule_test(
            "SIGKILL, and the new attempt too: one alert, for the new one",
            [*killed, *alive(40, SECOND, first=645, skip=43), *state("_x43 1x40", "_x43 0x40", process=SECOND)],
            ("26m", {"EsperRunVanished": [{**SECOND, **CRITICAL}]}),
            ("125m", {"EsperRunVanished": [{**SECOND, **CRITICAL}]}),
        ),
        rule_test(
            "an outage brings both attempts at once: the later heartbeat is the newer one",
            [
                series("esper_run_heartbeat_seconds", "_x80 600"),
                *state("_x80 1", "_x80 0"),
                series("esper_run_heartbeat_seconds", "_x80 1195", SECOND),
                *state("_x80 0", "_x80 1", process=SECOND),
            ],
            ("21m", {}),
            ("26m", {}),
            ("60m", {}),
        ),
    ]


def _clock_tests() -> list[dict[str, Any]]:
    """A trainer's clock that is not Prometheus's."""
    return [
        rule_test(
            f"a clock that is {what} raises nothing, and a hang is still seen",
            [
                series("esper_run_heartbeat_seconds", f"{offset}+15x80"),
                series("esper_run_last_progress_seconds", f"{offset}+15x40 {offset + 600}x40"),
                series("esper_ppo_last_rollout_duration_seconds", "5x80"),
                series("esper_ppo_last_update_duration_seconds", "2x80"),
                *state("1x80", "0x80"),
            ],
            ("5m", {}),
            ("10m", {}),
            ("15m", {"EsperRunStalled": [{**RUN, **CRITICAL}]}),
        )
        for what, offset in (("an hour behind", -3600), ("an hour ahead", 3600))
    ]


def _way_tests() -> list[dict[str, Any]]:
    """The way from the trainers to Prometheus."""
    three: list[Labels] = [{**RUN, "instance": name, "esper_run_id": name} for name in ("a", "b", "c")]
    gateway = {"job": "esper-gateway", "instance": "gateway:8888"}
    agent = {"job": "esper-agent", "instance": "trainer-1:8888", "host_name": "trainer-1"}
    waits = {**CRITICAL, "alertstate": "pending"}
    return [
        rule_test(
            "nothing arrives: the way is down before any run is called vanished",
            [series for process in three for series in alive(40, process)],
            ("11m", {}),
            ("12m", {"EsperPipelineDown": [CRITICAL], "EsperRunVanished": [{**one, **waits} for one in three]}),
            ("13m", {"EsperPipelineDown": [CRITICAL], "EsperRunVanished": [{**one, **CRITICAL} for one in three]}),
        ),
        rule_test(
            "an outage of a minute and a half pages nobody",
            [series("esper_run_heartbeat_seconds", "0+15x40 _x4 690+15x40", process) for process in three],
            *((when, {}) for when in ("11m", "11m15s", "12m", "15m")),
        ),
        rule_test(
            "one run of three is no outage",
            [*alive(40, three[0]), *(series for process in three[1:] for series in alive(80, process))],
            ("13m", {"EsperRunVanished": [{**three[0], **CRITICAL}]}),
        ),
        rule_test(
            "two runs that were killed at different times are no outage",
            [*alive(20, three[0]), *alive(40, three[1])],
            ("13m", {"EsperRunVanished": [{**one, **CRITICAL} for one in three[:2]]}),
        ),
        rule_test(
            "two gateways, and one is away",
            [
                *alive(40),
                series("up", "1x20 0x20", gateway),
                series("up", "1x40", {**gateway, "instance": "other:8888"}),
            ],
            ("9m", {"EsperCollectorDown": [{**gateway, **CRITICAL}]}),
        ),
        rule_test(
            "the only gateway is away",
            [*alive(40), series("up", "1x20 0x20", gateway)],
            ("9m", {"EsperCollectorDown": [{**gateway, **CRITICAL}], "EsperPipelineDown": [CRITICAL]}),
        ),
        rule_test(
            "the gateway is back before the runs are heard again: its alert outlasts theirs",
            [
                series("esper_run_heartbeat_seconds", "0+15x20 _x22 645+15x40"),
                series("up", "1x20 0x20 1x60", gateway),
            ],
            (
                "10m30s",
                {
                    "EsperCollectorDown": [{**gateway, **CRITICAL}],
                    "EsperPipelineDown": [CRITICAL],
                    "EsperRunVanished": [{**RUN, **CRITICAL}],
                },
            ),
            ("11m", {"EsperCollectorDown": [{**gateway, **CRITICAL}], "EsperPipelineDown": [CRITICAL]}),
            ("13m", {}),
        ),
        rule_test(
            "an agent is away",
            [*alive(40), series("up", "1x20 0x20", agent), series("up", "1x40", gateway)],
            ("9m", {"EsperCollectorDown": [{**agent, **CRITICAL}]}),
        ),
    ]


def _given_tests() -> list[dict[str, Any]]:
    """What an enterprise saw go wrong: no labels of a run, a clock that lags, a drift with fast updates."""
    first, second = {"job": "app", "instance": "A"}, {"job": "app", "instance": "B"}
    drifting = {**RUN, "instance": "D", "esper_run_id": "d"}
    return [
        rule_test(
            "without labels of a run (an application's own SDK, no promotion) each instance counts alone",
            [
                series("esper_run_heartbeat_seconds", "0+5x12 _x200", first),
                series("esper_run_heartbeat_seconds", "0+5x200", second),
                series("esper_run_state", "1x12 _x200", first, esper_run_state="live"),
                series("esper_run_state", "1x200", second, esper_run_state="live"),
            ],
            ("5m", {"EsperRunVanished": [{**first, **CRITICAL}]}),
            interval="5s",
        ),
        rule_test(
            "a clock 90 s behind, a healthy run",
            [series("esper_run_heartbeat_seconds", "-90+5x200", {**RUN, "instance": "C"})],
            ("5m", {}),
            interval="5s",
        ),
        rule_test(
            "a drift with an update every second, each forty-first calm; no counter",
            [
                series("esper_ppo_last_kl_divergence", " ".join(["0.09x40 0.01"] * 12), drifting),
                series("esper_policy_health", "3x500", drifting),
            ],
            ("6m", {"EsperKLCritical": [{**drifting, **CRITICAL}]}),
            interval="1s",
        ),
    ]


def _told_tests() -> list[dict[str, Any]]:
    """The number in an alert is of the KL that the run is judged by."""
    return [
        {
            **rule_test(
                f"an alert on a run judged on the {on} KL quotes that KL",
                [
                    series("esper_ppo_last_kl_divergence", "0.042x60"),
                    series("esper_ppo_last_kl_joint", "0.12x60"),
                    series("esper_run_kl_limit", "0.015x60", esper_run_kl_on=on, esper_run_kl_limit_level="warning"),
                    series("esper_run_kl_limit", "0.03x60", esper_run_kl_on=on, esper_run_kl_limit_level="critical"),
                    series("esper_policy_health", "3x60"),
                ],
            ),
            "alert_rule_test": [
                {
                    "eval_time": "10m",
                    "alertname": "EsperKLCritical",
                    "exp_alerts": [
                        {
                            "exp_labels": {**RUN, **CRITICAL},
                            "exp_annotations": {
                                "summary": f"run {RUN['esper_run_id']}: the policy drifts too fast",
                                "description": (
                                    "The verdict was critical for 100% of the recent time or updates. The last KL, of "
                                    f"the kind that the run is judged by, was {kl} nats. Lower learning_rate, or set "
                                    "target_kl so that updates stop in time."
                                ),
                                "runbook_url": f"{RUNBOOK}#esperklcritical",
                            },
                        }
                    ],
                }
            ],
        }
        for on, kl in (("weighted", 0.042), ("joint", 0.12))
    ]

"""The panels of the Grafana dashboard: what each asks Prometheus for, and its colours, from Esper's own limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esper_core.health import HealthLevel, TUIThresholds

__all__ = ["Panel", "rows"]

SELECT = 'esper_run_id=~"$run", esper_rank=~"$rank", host_name=~"$host"'
WHO = "{{esper_run_id}} rank {{esper_rank}}"
GREEN, YELLOW, RED, PURPLE, GREY = "green", "#EAB839", "red", "purple", "#808080"


@dataclass
class Panel:
    """One panel. ``queries`` are (PromQL, legend); ``steps`` are (from, colour), the first without a limit."""

    title: str
    kind: str
    queries: list[tuple[str, str]]
    width: int
    height: int = 8
    unit: str = "none"
    about: str = ""
    steps: list[tuple[float | None, str]] = field(default_factory=list)
    lines: bool = False
    exemplars: bool = False
    mappings: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    decimals: int | None = None
    minimum: float | None = None
    maximum: float | None = None


def _of(name: str, more: str = "") -> str:
    return f"{name}{{{SELECT}{', ' + more if more else ''}}}"


def _increase(name: str, by: str) -> str:
    return f"sum by ({by}) (increase({_of(name)}[$__rate_interval]))"


def _quantile(share: float) -> str:
    buckets = _of("esper_ppo_kl_divergence_bucket", 'esper_ppo_kl_scope="weighted"')
    return f"histogram_quantile({share}, sum by (le) (increase({buckets}[$__rate_interval])))"


def _value_map(*items: tuple[float, str, str]) -> list[dict[str, Any]]:
    options = {
        f"{value:g}": {"text": text, "color": color, "index": index} for index, (value, text, color) in enumerate(items)
    }
    return [{"type": "value", "options": options}]


LEVELS = _value_map(
    *(
        (level.severity, level.value.replace("_", "-"), color)
        for level, color in zip(HealthLevel, (GREY, GREEN, YELLOW, RED, PURPLE), strict=True)
    )
)
KL_LIMITS = (_of("esper_run_kl_limit"), f"{{{{esper_run_kl_limit_level}}}}, {{{{esper_run_kl_on}}}} KL {WHO}")
"""The run's own limits as lines: a threshold of the panel would be one number for all runs."""
STAT = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "textMode": "auto"}


def rows() -> list[tuple[str, list[Panel]]]:
    """Every panel, by row."""
    return [
        ("Verdict", _verdict()),
        ("Trust region", _trust_region()),
        ("Learning", _learning()),
        ("Work", _work()),
        ("Telemetry", _telemetry()),
    ]


def _verdict() -> list[Panel]:
    recent = "[$__range]"
    return [
        Panel(
            "Policy",
            "stat",
            [(f"last_over_time({_of('esper_policy_health')}{recent})", WHO)],
            6,
            4,
            about="The worst level of the last three updates, at least warning while one head is critical: it "
            "rises at once and calms after three better updates.",
            mappings=LEVELS,
            options=STAT,
        ),
        Panel(
            "Run",
            "stat",
            [(f"last_over_time({_of('esper_run_state')}{recent}) == 1", "{{esper_run_state}}")],
            5,
            4,
            about="What the run says of itself. A run that was killed still says live: see its sign of life.",
            options={**STAT, "textMode": "name"},
        ),
        Panel(
            "Last sign of life",
            "stat",
            [(f"time() - max_over_time({_of('esper_run_heartbeat_seconds')}{recent})", WHO)],
            4,
            4,
            unit="s",
            steps=[(None, GREEN), (60, RED)],
            options=STAT,
        ),
        Panel(
            "Updates",
            "stat",
            [(f"last_over_time({_of('esper_ppo_last_update_id')}{recent})", WHO)],
            3,
            4,
            options={**STAT, "colorMode": "none"},
        ),
        Panel(
            "KL now",
            "stat",
            [(f"last_over_time({_of('esper_ppo_last_kl_divergence')}{recent})", WHO)],
            3,
            4,
            decimals=4,
            options={**STAT, "colorMode": "none"},
        ),
        Panel(
            "Events lost",
            "stat",
            [(f"sum(last_over_time({_of('esper_sink_lost_total')}{recent}))", "")],
            3,
            4,
            steps=[(None, GREEN), (1, RED)],
            options=STAT,
        ),
    ]


def _trust_region() -> list[Panel]:
    return [
        Panel(
            "KL divergence of every update",
            "timeseries",
            [
                (_of("esper_ppo_last_kl_divergence"), f"weighted {WHO}"),
                (_of("esper_ppo_last_kl_joint"), f"joint {WHO}"),
                (_of("esper_ppo_last_stop_threshold"), f"stop at {WHO}"),
                KL_LIMITS,
            ],
            12,
            10,
            about="Weighted: per head-decision. Joint: per environment step, what other libraries call "
            "target_kl. The limits are the run's own, and say which of the two they are on. One point an "
            "update, at the update's own time.",
            decimals=4,
            minimum=0,
        ),
        Panel(
            "KL by head",
            "heatmap",
            [(f"avg by (esper_ppo_head_name) ({_of('esper_ppo_last_head_kl')})", "{{esper_ppo_head_name}}")],
            12,
            10,
            about="Per active decision. Which head moves, and when.",
            options={
                "calculate": False,
                "cellGap": 1,
                "color": {
                    "mode": "scheme",
                    "scheme": "RdYlGn",
                    "reverse": True,
                    "min": 0,
                    "steps": 64,
                },
                "tooltip": {"mode": "single", "yHistogram": False},
                "yAxis": {"unit": "none"},
            },
        ),
        Panel(
            "KL over many updates",
            "timeseries",
            [
                (_quantile(0.9), "90 % of updates stay below"),
                (_quantile(0.5), "50 %"),
                KL_LIMITS,
            ],
            8,
            about="From the histogram. The dots are exemplars: each opens the trace of its update.",
            exemplars=True,
            decimals=4,
            minimum=0,
        ),
        Panel(
            "Who carries the KL",
            "timeseries",
            [(_of("esper_ppo_last_head_share_ratio"), "{{esper_ppo_head_name}}")],
            8,
            unit="percentunit",
            minimum=0,
            maximum=1,
            options={"stack": True},
        ),
        Panel(
            "Early stops",
            "timeseries",
            [
                (_increase("esper_ppo_early_stops_total", "esper_run_id, esper_rank"), f"stops {WHO}"),
                (_increase("esper_ppo_updates_total", "esper_ppo_outcome"), "{{esper_ppo_outcome}}"),
            ],
            8,
            minimum=0,
        ),
    ]


def _learning() -> list[Panel]:
    clip, entropy, variance = (
        [(None, GREEN), (TUIThresholds.CLIP_WARNING, YELLOW), (TUIThresholds.CLIP_CRITICAL, RED)],
        [(None, RED), (TUIThresholds.ENTROPY_CRITICAL, YELLOW), (TUIThresholds.ENTROPY_WARNING, GREEN)],
        [(None, RED), (TUIThresholds.EXPLAINED_VAR_CRITICAL, YELLOW), (TUIThresholds.EXPLAINED_VAR_WARNING, GREEN)],
    )
    return [
        Panel(
            "Return",
            "timeseries",
            [
                (_of("esper_ppo_last_return_mean_100"), f"last 100 {WHO}"),
                (_of("esper_ppo_last_return_mean"), f"this rollout {WHO}"),
                (_of("esper_eval_last_return_mean"), f"evaluation {WHO}"),
                (_of("esper_eval_last_best_return_mean"), f"best evaluation {WHO}"),
            ],
            8,
            about="Evaluations are those of run.eval_every, in environments of their own.",
        ),
        Panel(
            "Clip fraction",
            "timeseries",
            [(_of("esper_ppo_last_clip_fraction_ratio"), WHO)],
            8,
            unit="percentunit",
            steps=clip,
            lines=True,
            minimum=0,
        ),
        Panel(
            "Entropy (share of what is possible)",
            "timeseries",
            [(_of("esper_ppo_last_entropy_normalised_ratio"), WHO)],
            8,
            unit="percentunit",
            steps=entropy,
            lines=True,
            minimum=0,
            maximum=1,
        ),
        Panel(
            "Explained variance",
            "timeseries",
            [(_of("esper_ppo_last_explained_variance_ratio"), WHO)],
            8,
            steps=variance,
            lines=True,
            maximum=1,
        ),
        Panel(
            "Gradient norm",
            "timeseries",
            [
                (_of("esper_ppo_last_grad_norm"), f"mean {WHO}"),
                (_of("esper_ppo_last_grad_norm_max"), f"largest {WHO}"),
            ],
            8,
            minimum=0,
        ),
        Panel(
            "Losses",
            "timeseries",
            [
                (_of("esper_ppo_last_policy_loss"), f"policy {WHO}"),
                (_of("esper_ppo_last_value_loss"), f"value {WHO}"),
            ],
            8,
        ),
    ]


def _work() -> list[Panel]:
    return [
        Panel(
            "Throughput",
            "timeseries",
            [(_of("esper_ppo_last_throughput_per_second"), WHO)],
            8,
            unit="cps",
            about="Environment steps a second, rollout and update together.",
            minimum=0,
        ),
        Panel(
            "Where the time goes",
            "timeseries",
            [
                (_of("esper_ppo_last_rollout_duration_seconds"), f"rollout {WHO}"),
                (_of("esper_ppo_last_update_duration_seconds"), f"update {WHO}"),
            ],
            8,
            unit="s",
            minimum=0,
        ),
        Panel(
            "Optimizer steps taken of those planned",
            "timeseries",
            [(f"{_of('esper_ppo_last_minibatches')} / {_of('esper_ppo_last_minibatches_planned')}", WHO)],
            8,
            unit="percentunit",
            minimum=0,
            maximum=1,
        ),
    ]


def _telemetry() -> list[Panel]:
    return [
        Panel(
            "Events lost by sink",
            "timeseries",
            [(f"sum by (esper_sink_name) ({_of('esper_sink_lost_total')})", "{{esper_sink_name}}")],
            8,
            steps=[(None, GREEN), (1, RED)],
            minimum=0,
            about="`esper replay RUN --to otlp` sends what the journal has and this place has not.",
        ),
        Panel(
            "Events waiting in a sink's queue",
            "timeseries",
            [(f"sum by (esper_sink_name) ({_of('esper_sink_queue')})", "{{esper_sink_name}}")],
            8,
            minimum=0,
        ),
        Panel(
            "NaN, Inf and clamped ratios",
            "timeseries",
            [
                (f"sum by (esper_run_id) ({_of('esper_ppo_non_finite_total')})", "non-finite {{esper_run_id}}"),
                (f"sum by (esper_run_id) ({_of('esper_ppo_clamped_total')})", "clamped {{esper_run_id}}"),
            ],
            8,
            minimum=0,
        ),
    ]

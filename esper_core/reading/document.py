"""The screen as one JSON document, for scripts. Pure. NaN and Inf travel as the strings that proto-JSON names."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from esper_core.health import HealthLevel, format_kl
from esper_core.reading.divergences import newest_divergences
from esper_core.reading.judged import judged_policy
from esper_core.reading.rows import METRICS, absence
from esper_core.reading.table import json_value
from esper_core.reading.trend import trend

if TYPE_CHECKING:
    from esper_core.reading.model import ScreenModel
    from esper_core.reading.rows import Metric
    from esper_core.reading.tamiyo import TamiyoState

__all__ = ["SCHEMA", "document"]

SCHEMA = 1
"""Raised when a key changes its meaning or goes."""
_EVENTS = 20


def document(model: ScreenModel) -> dict[str, Any]:
    """Everything the screen shows, with unrounded numbers."""
    snapshot, tamiyo, last = model.snapshot, model.snapshot.tamiyo, model.snapshot.last
    levels = {head.name: head for head in judged_policy(snapshot).heads}
    found = {
        "schema": SCHEMA,
        "run": {
            "id": model.selected,
            "label": model.label,
            "name": snapshot.plan.run_name,
            "environment": snapshot.plan.environment,
            "source": model.source,
            "attempt": snapshot.attempt,
            "ranks": snapshot.plan.ranks,
            "state": model.life.state.value,
            "age_s": model.age_s,
            "ended_s": model.ended_s,
            "pid": model.life.pid,
            "host": model.life.host,
            "message": model.life.message,
        },
        "verdict": {
            "kind": model.verdict.kind.value,
            "label": model.verdict.label,
            "level": model.verdict.level.value,
            "reason": model.verdict.reason,
            "exit_code": model.verdict.exit_code,
            "suggestion": str(model.advice) if model.advice is not None else None,
        },
        "kl": {
            "on": tamiyo.limits.on,
            "value": tamiyo.judged_kl,
            "text": format_kl(tamiyo.judged_kl, limits=tamiyo.limits),
            "weighted": tamiyo.kl_divergence,
            "joint": tamiyo.kl_joint,
            "history": list(tamiyo.judged_kl_history),
            "trend": trend(tamiyo.judged_kl_history),
            "warning": tamiyo.limits.warning,
            "critical": tamiyo.limits.critical,
            "target": last.target_kl if last is not None else snapshot.plan.target_kl,
            "stop_threshold": last.stop_threshold if last is not None else snapshot.plan.stop_threshold,
            "stop_on": last.stop_on if last is not None else snapshot.plan.stop_on,
        },
        "early_stop": {
            "last": asdict(tamiyo.early_stop) if tamiyo.early_stop is not None else None,
            "of_last": len(tamiyo.early_stops),
            "stopped": snapshot.stopped_recently,
        },
        "health": {**_unjudged_kl(tamiyo), **{item.field(tamiyo): _row(item, model) for item in METRICS}},
        "heads": [
            {
                "name": head.name,
                "kl": head.kl,
                "weight": head.weight,
                "share": head.share,
                "kind": head.kind,
                "entropy": head.entropy,
                "entropy_normalised": head.entropy_normalised,
                "clip_fraction": head.clip_fraction,
                "decisions": head.decisions,
                "judged": {
                    "kl": judged.kl if judged.decisions else None,
                    "decisions": judged.decisions,
                    "level": judged.level.value,
                }
                if (judged := levels.get(head.name)) is not None
                else None,
            }
            for head in snapshot.heads
        ],
        "divergences": [{**asdict(seen.divergence), "update": seen.update_id} for seen in newest_divergences(snapshot)],
        "progress": asdict(model.progress),
        "throughput": {
            "steps_per_s": tamiyo.steps_per_s,
            "rollout_s": last.rollout_s if last is not None else None,
            "update_s": last.update_s if last is not None else None,
            "return_mean": tamiyo.return_mean,
            "return_mean_100": last.return_mean_100 if last is not None else None,
        },
        "sinks": [
            {
                "name": item.name,
                "state": item.state,
                "queued": item.queued,
                "capacity": item.capacity or None,
                "delivered": item.delivered,
                "lost": item.lost,
                "lag_s": item.lag_s,
                "message": item.message,
            }
            for item in model.sinks
        ],
        "events": [asdict(item) for item in snapshot.events[-_EVENTS:]],
        "unread": {"events": snapshot.bad, "lines": model.corrupt},
    }
    return {key: json_value(value) for key, value in found.items()}


def _row(item: Metric, model: ScreenModel) -> dict[str, Any]:
    """One row of the health panel."""
    tamiyo = model.snapshot.tamiyo
    limits = item.limits(tamiyo)
    return {
        "value": item.value(tamiyo),
        "level": item.level(tamiyo).value,
        "limits": {"warning": limits.warning, "critical": limits.critical},
        "history": list(item.history(tamiyo)),
        "absent": absence(item, model.snapshot, ended=model.life.state.ended),
    }


def _unjudged_kl(tamiyo: TamiyoState) -> dict[str, Any]:
    """The KL that the run is not judged by: both keys are there whatever the run's limits are on; this has no level."""
    name = "kl_divergence" if tamiyo.limits.on == "joint" else "kl_joint"
    return {
        name: {
            "value": getattr(tamiyo, name),
            "level": HealthLevel.UNKNOWN.value,
            "limits": {"warning": "", "critical": ""},
            "history": list(getattr(tamiyo, f"{name}_history")),
            "absent": "",
        }
    }

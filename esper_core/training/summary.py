"""``summary.json``: the result of an attempt, readable without its journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from esper_core.reading.account import to_summary
from esper_core.runs.reserve import replace_reserved

if TYPE_CHECKING:
    from esper_core.config.layers import Resolved
    from esper_core.events import PPOUpdatePayload
    from esper_core.health import RunState, Verdict
    from esper_core.host.session import SessionReport
    from esper_core.runs.held import HeldRun

__all__ = ["summary_of", "write_summary"]


class Counted(Protocol):
    """What a run has done, over all its attempts but for the stops."""

    @property
    def env_steps(self) -> int:
        """Environment steps."""

    @property
    def episodes(self) -> int:
        """Finished episodes."""

    @property
    def early_stops(self) -> int:
        """Updates of this attempt that ended early."""

    @property
    def joint_stops(self) -> int | None:
        """Updates of this attempt in which the stop rule on the joint KL would have stopped."""

    @property
    def evaluations_failed(self) -> int | None:
        """Evaluations of this attempt whose environments failed; None where somebody else evaluates."""

    @property
    def return_mean_100(self) -> float | None:
        """Mean return of the last 100 episodes."""


def summary_of(
    resolved: Resolved,
    *,
    environment: str,
    result: Counted | None,
    last: PPOUpdatePayload | None,
    updates: int,
    judged: Verdict | None,
    report: SessionReport,
    duration_s: float,
    state: RunState,
    reason: str,
) -> dict[str, Any]:
    """The content of ``summary.json`` except the run's id and attempt; null where nothing was measured.

    Args:
        resolved: the configuration.
        environment: id of the environment.
        result: how training ended; None when an exception ended it.
        last: the last update that was made.
        updates: the last update's id.
        judged: the verdict; None when an exception ended it.
        report: the final counters of every sink.
        duration_s: seconds the attempt took.
        state: how it ended.
        reason: why it ended, as text.
    """
    return {
        "environment": environment,
        "preset": resolved.config.preset,
        "seed": resolved.config.run.seed,
        "state": state.value,
        "reason": reason,
        "verdict": judged.label if judged is not None else None,
        "verdict_reason": judged.reason if judged is not None else None,
        "updates": updates,
        "env_steps": result.env_steps if result is not None else None,
        "episodes": result.episodes if result is not None else None,
        "early_stops": result.early_stops if result is not None else None,
        "evaluations_failed": result.evaluations_failed if result is not None else None,
        "joint_stops": result.joint_stops if result is not None else None,
        "return_mean_100": result.return_mean_100 if result is not None else None,
        "kl_divergence": last.kl_divergence if last is not None else None,
        "kl_joint": last.kl_joint if last is not None else None,
        "kl_on": resolved.config.health.kl_on,
        "kl_warning": resolved.config.health.kl_warning,
        "kl_critical": resolved.config.health.kl_critical,
        "health": last.health.value if last is not None else None,
        "duration_s": duration_s,
        "lost": report.lost_total,
        "sinks": [to_summary(sink) for sink in report.sinks],
    }


def write_summary(held: HeldRun, attempt: int, content: dict[str, Any]) -> str:
    """Write the file atomically, also on a full disk. Return why it could not be written, or an empty string."""
    run = held.run
    # msgspec writes NaN as null, which every JSON reader accepts; "health" distinguishes it from "not measured".
    text = msgspec.json.format(msgspec.json.encode({"run_id": run.run_id, "attempt": attempt, **content}), indent=2)
    try:
        replace_reserved(held.folder, "summary.json", text + b"\n", durable=True)
    except OSError as error:
        return f"cannot write {run.summary_path}: {error.strerror}"
    return ""

"""What commands about recorded runs print: words and numbers, no colours, no terminal needed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esper_core.events import PolicyHealthChanged, PPOUpdatePayload, RunFinished, RunStarted, SinkStatusChanged
from esper_core.health import HealthLevel, format_kl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.events import Payload, TelemetryEvent

__all__ = ["aligned", "duration", "event_line", "number"]


def event_line(event: TelemetryEvent[Payload]) -> str | None:
    """One event in one line; None for those that a listing of updates leaves out."""
    payload = event.payload
    if isinstance(payload, PPOUpdatePayload):
        return _update_line(payload)
    if isinstance(payload, RunStarted):
        attempt = f", attempt {event.attempt} from update {payload.first_update_id}" if event.attempt > 1 else ""
        heads = ", ".join(payload.heads) or "unknown"
        return f"run {event.run_id}{attempt}: {payload.environment}, heads {heads}, seed {payload.seed}"
    if isinstance(payload, PolicyHealthChanged):
        return f"  policy {_word(payload.previous)} -> {_word(payload.current)}"
    if isinstance(payload, SinkStatusChanged) and payload.state not in {"ok", "closed"}:
        lost = f", {payload.lost} events lost" if payload.lost else ""
        why = f": {payload.message}" if payload.message else ""
        return f"  sink {payload.sink} {payload.state.replace('_', ' ')}{lost}{why}"
    if isinstance(payload, RunFinished):
        reason = f" ({payload.reason})" if payload.reason else ""
        return f"{payload.state}{reason} after {payload.updates} updates, {payload.env_steps} steps"
    return None


def _update_line(update: PPOUpdatePayload) -> str:
    parts = [
        f"update {update.update_id:>5}",
        f"return {number(update.return_mean):>8}",
        f"KL {format_kl(update.kl_divergence):>7} {_word(update.health):<10}",
    ]
    if update.early_stop is not None:
        parts.append(f"early stop in epoch {update.early_stop.epoch} of {update.epochs_planned}")
    elif update.outcome != "completed":
        parts.append(f"{update.outcome}{': ' if update.reason else ''}{update.reason}")
    leading = update.leading_head
    if len(update.heads) > 1 and leading is not None and update.health.severity >= HealthLevel.WARNING.severity:
        parts.append(f"head {leading.name} carries {leading.share:.0%}")
    return "   ".join(parts).rstrip()


def number(value: float | None) -> str:
    """A return or the like with one decimal; ``—`` when there is none."""
    if value is None:
        return "—"
    return f"{value:.1f}" if math.isfinite(value) else "non-finite"


def duration(seconds: float) -> str:
    """A time span in its two largest units: ``42 s``, ``3 min``, ``2 h 05 min``, ``12 d``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d"


def aligned(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Rows of cells as lines of columns, two spaces apart.

    Args:
        rows: of equal length; the first is the heading.
        right: columns that are numbers.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _word(level: HealthLevel) -> str:
    return level.value.replace("_", "-")

"""Events as lines of styled text. Pure: no terminal, no clock, no Rich."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from esper_core.health import WARM_UP_UPDATES, HealthLevel, format_kl, suggestion

if TYPE_CHECKING:
    from esper_core.events import PPOUpdatePayload, RunFinished, RunStarted, SinkStatusChanged

__all__ = [
    "ASCII",
    "UNICODE",
    "Glyphs",
    "Line",
    "advice",
    "finished_line",
    "plain",
    "short_count",
    "started_line",
    "status_line",
    "trend",
    "update_line",
]

Line: TypeAlias = tuple[tuple[str, str], ...]
"""Pieces of (text, style); styles are ``""``, ``dim``, ``warning`` and ``critical``."""

_COMPACT_BELOW: Final = 100
_TREND_BAND: Final = 0.05
_TREND_LEAST: Final = 0.0005


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What stands for levels and trends; the word always stands beside the glyph."""

    levels: dict[HealthLevel, str]
    up: str
    down: str
    level: str
    follow: str
    none: str


UNICODE: Final = Glyphs(
    levels={
        HealthLevel.UNKNOWN: "◌",
        HealthLevel.HEALTHY: "●",
        HealthLevel.WARNING: "▲",
        HealthLevel.CRITICAL: "✖",
        HealthLevel.NON_FINITE: "×",  # noqa: RUF001  # a glyph, not a letter
    },
    up="↑",
    down="↓",
    level="→",
    follow="↳",
    none="—",
)
ASCII: Final = Glyphs(
    levels={
        HealthLevel.UNKNOWN: "~",
        HealthLevel.HEALTHY: "*",
        HealthLevel.WARNING: "!",
        HealthLevel.CRITICAL: "X",
        HealthLevel.NON_FINITE: "#",
    },
    up="^",
    down="v",
    level="-",
    follow="`-",
    none="-",
)

_STYLES: Final = {
    HealthLevel.WARNING: "warning",
    HealthLevel.CRITICAL: "critical",
    HealthLevel.NON_FINITE: "critical",
}
_KL_WIDTH: Final = len("KL 0.014996 ↑ ● critical")


def plain(line: Line) -> str:
    """The text without its styles."""
    return "".join(text for text, _ in line).rstrip()


def short_count(number: float | None, none: str = "—") -> str:
    """A count in at most five characters: ``950``, ``8.1k``, ``12k``, ``1.5M``."""
    if number is None or not math.isfinite(number):
        return none
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            scaled = number / limit
            return f"{scaled:.0f}{unit}" if scaled >= 10 else f"{scaled:.1f}{unit}"
    return f"{number:.0f}"


def trend(before: float | None, now: float | None, glyphs: Glyphs) -> str:
    """Direction of the number against the update before: up, down, level (within 5 % or 0.0005), or a blank."""
    if before is None or now is None or not math.isfinite(before) or not math.isfinite(now):
        return " "
    if abs(now - before) <= max(_TREND_LEAST, _TREND_BAND * abs(before)):
        return glyphs.level
    return glyphs.up if now > before else glyphs.down


def update_line(update: PPOUpdatePayload, *, before: float | None, glyphs: Glyphs, width: int | None = None) -> Line:
    """One update: id, return, KL with direction and state, early stop, speed.

    Args:
        update: the update.
        before: the KL of the update before it, nats.
        glyphs: UNICODE or ASCII.
        width: columns of the terminal; None when the line may be as long as it likes.
    """
    compact = width is not None and width < _COMPACT_BELOW
    gap = "  " if compact else "   "
    word = update.health.value.replace("_", "-")
    state = f"{glyphs.levels[update.health]} {word}"
    returns = glyphs.none if update.return_mean is None else f"{update.return_mean:.1f}"
    kl = format_kl(update.kl_divergence).replace("—", glyphs.none)
    number = f"KL {kl:>6} {trend(before, update.kl_divergence, glyphs)} "
    # A KL close to a limit has more digits: it takes them from the blanks behind the word.
    blanks = " " * (_KL_WIDTH - len(number) - len(state))
    what, style = _outcome(update, compact=compact)
    speed = short_count(update.steps_per_s, glyphs.none) + ("/s" if compact else " steps/s")
    return (
        (f"update {update.update_id:>4}{gap}", "dim"),
        (f"return {returns:>7}{gap}{number}", ""),
        (state, _STYLES.get(update.health, "")),
        (f"{blanks}{gap}{what:<{10 if compact else 16}}", style),
        (f"{gap}{speed:>{6 if compact else 12}}", "dim"),
    )


def _outcome(update: PPOUpdatePayload, *, compact: bool) -> tuple[str, str]:
    if update.early_stop is not None:
        where = f"{update.early_stop.epoch}/{update.epochs_planned}"
        return (f"stop {where}" if compact else f"early stop {where}"), "warning"
    if update.outcome == "completed":
        return "", ""
    word = update.outcome.replace("_", " ")
    return (word[:10] if compact else word), "warning"


def advice(update: PPOUpdatePayload, glyphs: Glyphs) -> Line | None:
    """The second line: which head carries the KL, and one suggestion; None when there is nothing to do.

    During warm-up a WARNING needs no advice, and a CRITICAL is labelled.
    """
    stop = update.early_stop
    warming = update.update_id <= WARM_UP_UPDATES
    parts: list[str] = []
    leading = update.leading_head
    muted = warming and stop is None and update.health is HealthLevel.WARNING
    advised = suggestion(
        level=HealthLevel.HEALTHY if muted else update.health,
        early_stopped=stop is not None,
        stopped_epoch=stop.epoch if stop is not None else None,
        epochs_planned=update.epochs_planned,
        learning_rate=update.learning_rate,
    )
    if advised is None and update.outcome not in {"skipped", "interrupted"}:
        return None
    if update.outcome in {"skipped", "interrupted"} and update.reason:
        parts.append(update.reason)
    if advised is not None:
        if warming and update.health is HealthLevel.CRITICAL:
            parts.append("warm-up")
        if len(update.heads) > 1 and leading is not None and leading.share:
            parts.append(f"head {leading.name} carries {leading.share:.0%} of the KL")
        parts.append(str(advised))
    if not parts:
        return None
    return ((f"{glyphs.follow} {'; '.join(parts)}", _STYLES.get(update.health, "warning")),)


def status_line(status: SinkStatusChanged) -> Line | None:
    """A sink that is in trouble or recovered; None for what needs no line."""
    if status.state in {"ok", "closed"}:
        return None
    origin = f" ({status.distribution} {status.version})" if status.distribution else ""
    lost = f", {status.lost} events lost" if status.lost else ""
    message = f": {status.message}" if status.message else ""
    style = "" if status.state == "recovered" else "warning"
    return ((f"sink {status.sink}{origin} {status.state.replace('_', ' ')}{lost}{message}", style),)


def started_line(run_id: str, attempt: int, started: RunStarted) -> Line:
    """What a replay begins with."""
    again = f", attempt {attempt}" if attempt > 1 else ""
    heads = ", ".join(started.heads)
    return ((f"run {run_id}{again}: {started.environment}, heads {heads or 'unknown'}, seed {started.seed}", "dim"),)


def finished_line(finished: RunFinished) -> Line:
    """What a replay ends with."""
    reason = f" ({finished.reason})" if finished.reason else ""
    steps = f"{finished.updates} updates, {finished.env_steps} steps, {finished.episodes} episodes"
    return ((f"{finished.state.value}{reason} after {steps}", "dim"),)

"""One update as one line of columns, while it trains (console) and when it is told again (``esper replay``). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from esper_core.health import DEFAULT_KL_LIMITS, KLLimits, format_kl, level_under
from esper_core.reading.glyphs import ARROWS, LEVELS, Role
from esper_core.reading.numbers import plain, rate
from esper_core.reading.sentences import level_word, outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.events import PPOUpdatePayload
    from esper_core.reading.trend import Trend

__all__ = ["UpdateLine", "update_line"]

UpdateLine: TypeAlias = tuple[tuple[str, Role], ...]
"""Pieces of (text, role of colour)."""
_KL_WIDTH: Final = len("KL 0.014996 ↑ ● critical")


def update_line(
    update: PPOUpdatePayload,
    direction: Trend,
    *,
    limits: KLLimits = DEFAULT_KL_LIMITS,
    compact: bool = False,
    draw: Callable[[str], str] = str,
) -> UpdateLine:
    """One update: id, return, KL with direction and state, early stop, speed.

    Args:
        update: the update.
        direction: the trend of the judged KL up to it.
        limits: of the run.
        compact: for a terminal below 100 columns.
        draw: turns the signs into others of the same width: ``to_ascii``.
    """
    gap = "  " if compact else "   "
    level = level_under(update, limits)
    state, role = f"{draw(LEVELS[level].glyph)} {level_word(level)}", LEVELS[level].role
    kl = format_kl(update.judged_kl(limits.on), limits=limits)
    number = f"{limits.name} {draw(kl):>6} {draw(ARROWS[direction])} "
    # A KL close to a limit has more digits: it takes them from the blanks behind the word.
    blanks = " " * (_KL_WIDTH + len(limits.name) - len("KL") - len(number) - len(state))
    ended = outcome(update, "narrow" if compact else "line")
    speed = draw(rate(update.steps_per_s)) + ("/s" if compact else " steps/s")
    return (
        (f"update {update.update_id:>4}{gap}", "dim"),
        (f"return {draw(_return(update)):>7}{gap}{number}", ""),
        (state, role if role in {"warn", "crit", "bad"} else ""),
        (f"{blanks}{gap}{ended:<{10 if compact else 16}}", "warn" if ended else ""),
        (f"{gap}{speed:>{7 if compact else 13}}", "dim"),
    )


def _return(update: PPOUpdatePayload) -> str:
    """The return of the rollout's episodes; where none ended in it, ``~`` and the mean of the last 100."""
    if update.return_mean is not None or update.return_mean_100 is None:
        return plain(update.return_mean, 1)
    return f"~{plain(update.return_mean_100, 1)}"

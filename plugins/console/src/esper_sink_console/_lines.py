"""Formats what the console prints beside the shared sentences: the suggestion below an update, lines as plain text.

Pure functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from esper_core.health import WARM_UP_UPDATES, HealthLevel, policy_level
from esper_core.reading.glyphs import FOLLOW, LEVELS, Role
from esper_core.reading.judged import update_advice
from esper_core.reading.sentences import carries
from esper_core.terminal import one_line

if TYPE_CHECKING:
    from esper_core.events import PPOUpdatePayload
    from esper_core.health import PolicyLevel

__all__ = ["COMPACT_BELOW", "Line", "advice", "plain"]

Line: TypeAlias = tuple[tuple[str, Role], ...]
"""Pieces of (text, role of colour)."""
COMPACT_BELOW = 100
"""Columns. On a narrower terminal lines are shorter."""
_ASCII_FOLLOW = "`-"


def plain(line: Line) -> str:
    """The text without its colours, in one line: names and reasons from outside may hold anything."""
    return one_line("".join(text for text, _ in line)).rstrip()


def advice(update: PPOUpdatePayload, *, policy: PolicyLevel | None = None, ascii_only: bool = False) -> Line | None:
    """The second line: which head has the largest share of the KL, and one suggestion; None when the KL is not high.

    During warm-up a WARNING gets no second line, and a CRITICAL is labelled.

    Args:
        update: the update.
        policy: its level over the judged window; None judges the update alone. A head at CRITICAL is named even when
            the KL of all heads is low.
        ascii_only: print ASCII only.
    """
    policy = policy if policy is not None else policy_level([update])
    warming = update.update_id <= WARM_UP_UPDATES
    calm = update.health.severity <= HealthLevel.HEALTHY.severity
    muted = warming and update.early_stop is None and (update.health is HealthLevel.WARNING or calm)
    advised = None if muted else update_advice(update, policy=policy, named=False)
    parts: list[str] = []
    if update.outcome in {"skipped", "interrupted"} and update.reason:
        parts.append(update.reason)
    if advised is not None:
        if warming and update.health is HealthLevel.CRITICAL:
            parts.append("warm-up")
        if policy.blamed is None and (carrier := carries(update)):
            parts.append(f"{carrier} of the KL")
        parts.append(str(advised))
    if not parts:
        return None
    role = LEVELS[update.health].role
    follow = _ASCII_FOLLOW if ascii_only else FOLLOW
    return ((f"{follow} {'; '.join(parts)}", role if role in {"warn", "crit", "bad"} else "warn"),)

"""Whether this machine's clock differs from the receiver's, by the Date header of an answer."""

from __future__ import annotations

import datetime as dt
import email.utils
import math
from typing import Final

__all__ = ["WRONG_FROM_S", "ahead_s", "clock_words"]

WRONG_FROM_S: Final = 60.0
"""Seconds from which a difference is told: less is no trouble to a backend, and a slow network may look like it."""
_RESOLUTION_S: Final = 1.0
"""A Date header has whole seconds, cut off."""
_REFUSED_FROM_S: Final = 540.0
"""Seconds ahead from which the gateway keeps points out, before Prometheus refuses them at 600."""


def ahead_s(date: str | None, began_s: float, ended_s: float) -> float | None:
    """How many seconds this machine's clock is ahead of the receiver's; negative when it is behind.

    The receiver wrote the date at some moment of the exchange, so the least difference that is possible is returned.

    Args:
        date: the Date header; None when there is none.
        began_s: this machine's time when the request left, in seconds since 1970.
        ended_s: when the answer had come.

    Returns:
        None when there is no date to read.
    """
    if not date:
        return None
    try:
        told = email.utils.parsedate_to_datetime(date)
        told_s = (told if told.tzinfo else told.replace(tzinfo=dt.UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    least, most = began_s - told_s - _RESOLUTION_S, ended_s - told_s
    if not math.isfinite(least + most):
        return None
    return least if least > 0 else min(most, 0.0)


def clock_words(ahead: float | None) -> str:
    """What to tell a person about a clock that is ``ahead`` seconds ahead; empty when the difference is no trouble."""
    if ahead is None or abs(ahead) < WRONG_FROM_S:
        return ""
    way = "ahead of" if ahead > 0 else "behind"
    cost = (
        "its metrics are refused"
        if ahead >= _REFUSED_FROM_S
        else "times in its spans and metrics are wrong by that, and from 540 s ahead on its metrics are refused"
        if ahead > 0
        else "times in its spans and metrics are wrong by that, and late metrics may be refused"
    )
    return (
        f"this machine's clock is {abs(ahead):.0f} s {way} the receiver's: {cost}. "
        "Set the clock (chronyc makestep, timedatectl set-ntp true), or the receiver's if that is the wrong one"
    )

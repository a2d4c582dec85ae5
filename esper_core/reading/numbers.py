"""Numbers as text: one precision a metric, ``—`` for missing (never 0), words for what is not a number. Pure."""

from __future__ import annotations

import math
import time
from typing import Final

from esper_core.reading.glyphs import ABSENT

__all__ = ["MISSING", "age", "clock", "count", "duration", "moment", "percent", "plain", "rate", "scaled", "step_trim"]

MISSING: Final = ABSENT
NON_FINITE: Final = "non-finite"


def plain(value: float | None, digits: int) -> str:
    """A number with a fixed number of decimals; scientific from a million on, so that columns hold."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return NON_FINITE
    if abs(value) >= 1e6:
        return f"{value:.2e}"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def scaled(value: float | None, digits: int) -> str:
    """As :func:`plain`, but a number of any size keeps two figures and takes at most seven cells."""
    if value is None or not math.isfinite(value) or value == 0:
        return plain(value, digits)
    size = abs(value)
    if size >= 1e12 or size < 10.0**-digits * 10:
        return f"{value:.1e}".replace("e-0", "e-").replace("e+", "e")
    if size >= 1e5:
        return rate(value)
    return f"{value:.0f}" if size >= 1000 else plain(value, min(digits, 2) if size >= 100 else digits)


def percent(value: float | None, digits: int = 1) -> str:
    """A share of one as percent."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return NON_FINITE
    return f"{value * 100:.{digits}f}%"


def count(value: int | None) -> str:
    """An integer, grouped from 10,000 on."""
    if value is None:
        return MISSING
    return f"{value:,}" if abs(value) >= 10_000 else str(value)


def rate(value: float | None) -> str:
    """A rate per second in three figures: 184, 18.4k, 1.84M."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return NON_FINITE
    for limit, scale, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e3, 1e3, "k")):
        if abs(value) >= limit:
            return f"{step_trim(value / scale)}{unit}"
    return step_trim(value)


def step_trim(value: float) -> str:
    """Three significant figures without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def duration(seconds: float | None) -> str:
    """A length of time: 410 ms, 3.48 s, 42 s, 5 min, 5m07s, 1h32m, 3d04h."""
    if seconds is None:
        return MISSING
    if not math.isfinite(seconds):
        return NON_FINITE
    if seconds < 1:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


def age(seconds: float | None) -> str:
    """How old something is, in whole seconds: a text that changes once a second and no more often."""
    if seconds is None:
        return MISSING
    if not math.isfinite(seconds):
        return NON_FINITE
    return duration(float(int(seconds))) if seconds >= 10 else f"{max(int(seconds), 0)} s"


def clock(time_ns: int, *, utc: bool = False) -> str:
    """A moment as hours, minutes and seconds of the local day."""
    parts = time.gmtime(time_ns / 1e9) if utc else time.localtime(time_ns / 1e9)
    return time.strftime("%H:%M:%S", parts)


def moment(time_ns: int | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A moment as local date and time, in a form of ``time.strftime``; missing for a time that no calendar has."""
    try:
        return MISSING if time_ns is None else time.strftime(form, time.localtime(time_ns / 1e9))
    except (OverflowError, ValueError, OSError):
        return MISSING

"""The one table of signs: a glyph, a word and a role of colour for every level, verdict and state, and ASCII forms.

No sign means two things. Everything is built with the Unicode signs; ASCII mode translates the finished text sign by
sign, so that both have the same width and neither can miss one.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from esper_core.health import HealthLevel, RunState, VerdictKind

__all__ = [
    "ABOVE",
    "ABSENT",
    "ARROWS",
    "BADGES",
    "BELOW",
    "EVALUATED",
    "FOLLOW",
    "LEVELS",
    "MISSING",
    "NON_FINITE",
    "RESUME",
    "SHADES",
    "SPARK",
    "STATES",
    "STOP",
    "VERDICTS",
    "Role",
    "Sign",
    "encodable",
    "to_ascii",
]

Role: TypeAlias = Literal[
    "",
    "dim",
    "title",
    "frame",
    "ok",
    "info",
    "warn",
    "crit",
    "bad",
    "stale",
    "stop",
    "frozen",
    "cursor",
    "on-dim",
    "on-ok",
    "on-info",
    "on-warn",
    "on-crit",
    "on-bad",
    "on-stale",
]
"""What a piece of text means; themes give roles their colours. ``""`` is plain text, ``on-`` a filled badge."""


class Sign(NamedTuple):
    """A state for the eye: never by colour alone."""

    glyph: str
    word: str
    role: Role


NON_FINITE: Final = "\u00d7"  # the multiplication sign, escaped because it looks like an x

LEVELS: Final = {
    HealthLevel.UNKNOWN: Sign("…", "wait", "dim"),
    HealthLevel.HEALTHY: Sign("●", "ok", "ok"),
    HealthLevel.WARNING: Sign("▲", "warn", "warn"),
    HealthLevel.CRITICAL: Sign("✖", "crit", "crit"),
    HealthLevel.NON_FINITE: Sign(NON_FINITE, "NaN/Inf", "bad"),
}
VERDICTS: Final = {
    VerdictKind.CRASHED: Sign("✖", "CRASHED", "crit"),
    VerdictKind.FAILED: Sign("✖", "FAILED", "crit"),
    VerdictKind.NON_FINITE: Sign(NON_FINITE, "NON-FINITE", "bad"),
    VerdictKind.STALE: Sign("?", "STALE", "stale"),
    VerdictKind.STALLED: Sign("?", "STALLED", "stale"),
    VerdictKind.LOSSY: Sign("▲", "LOSSY", "warn"),
    VerdictKind.CRITICAL: Sign("✖", "CRITICAL", "crit"),
    VerdictKind.WARNING: Sign("▲", "WARNING", "warn"),
    VerdictKind.WARM_UP: Sign("◌", "WARM-UP", "info"),
    VerdictKind.UNKNOWN: Sign("…", "UNKNOWN", "dim"),
    VerdictKind.HEALTHY: Sign("●", "HEALTHY", "ok"),
}
STATES: Final = {
    RunState.LIVE: Sign("●", "live", "ok"),
    RunState.STALLED: Sign("?", "stalled", "stale"),
    RunState.STALE: Sign("?", "stale", "stale"),
    RunState.CRASHED: Sign("✖", "crashed", "crit"),
    RunState.STOPPED: Sign("■", "stopped", "info"),
    RunState.FAILED: Sign("✖", "failed", "crit"),
    RunState.DONE: Sign("✔", "done", "info"),
    RunState.UNKNOWN: Sign("…", "unknown", "dim"),
}
BADGES: Final[dict[Role, Role]] = {
    "dim": "on-dim",
    "ok": "on-ok",
    "info": "on-info",
    "warn": "on-warn",
    "crit": "on-crit",
    "bad": "on-bad",
    "stale": "on-stale",
}
"""The filled form of a state's role."""
SPARK: Final = "▁▂▃▄▅▆▇█"
MISSING: Final = "·"
STOP: Final = "▴"
ABOVE: Final = "▲"
"""In a curve: above the range that is drawn."""
BELOW: Final = "▼"
EVALUATED: Final = "◆"
"""In a curve: an evaluation."""
RESUME: Final = "┊"
"""In a curve: an attempt begins."""
SHADES: Final = "░▒▓█"
"""In a map: below half the warning limit, below it, at or above it, at or above the critical limit."""
FOLLOW: Final = "↳"
"""Before a second line that belongs to the first."""
ABSENT: Final = "—"
"""Instead of a number that was not measured: never 0."""
ARROWS: Final = {"rising": "↑", "falling": "↓", "steady": "→", "": " "}


def _braille(bits: int) -> str:
    """A cell of braille dots as one letter: where in the cell the dots are."""
    upper, lower = bits & 0x1B, bits & 0xE4
    return " " if not bits else ":" if upper and lower else "'" if upper else "."


_ASCII: Final = str.maketrans(
    {
        **dict(zip(SPARK, "12345678", strict=True)),
        "●": "*",
        "▲": "!",
        "✖": "X",
        "◌": "~",
        "…": ".",
        NON_FINITE: "#",
        "‖": "H",
        "■": "s",
        "✔": "d",
        "▴": "^",
        "▶": ">",
        "·": ".",
        ABSENT: "-",
        FOLLOW: "`",
        "≥": ">",
        "≤": "<",
        "↑": "^",
        "↓": "v",
        "→": "=",
        "←": "<",
        "─": "-",
        "│": "|",
        "┌": "+",
        "┐": "+",
        "└": "+",
        "┘": "+",
        **dict.fromkeys("┏┓┗┛┷┯┠┨┻┳┣┫┬┴├┤┼", "+"),
        "━": "-",
        "┃": "|",
        "░": ".",
        "▒": "o",
        "▓": "%",
        "╌": "-",
        "┄": "-",
        RESUME: ":",
        BELOW: "v",
        EVALUATED: "e",
        **{chr(0x2800 + bits): _braille(bits) for bits in range(256)},
        **dict.fromkeys("▏▎▍", "|"),
        **dict.fromkeys("▌▋▊▉", "8"),
    }
)


def to_ascii(text: str) -> str:
    """The text in ASCII, of the same width: known signs by their own letters, anything else as ``?``."""
    if text.isascii():
        return text
    return "".join(sign if sign.isascii() else "?" for sign in text.translate(_ASCII))


def encodable(encoding: str | None) -> bool:
    """Whether a stream of this encoding can show the signs; None counts as UTF-8."""
    signs = [sign.glyph for table in (LEVELS, VERDICTS, STATES) for sign in table.values()]
    try:
        "".join((*signs, *ARROWS.values(), FOLLOW, ABSENT)).encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True

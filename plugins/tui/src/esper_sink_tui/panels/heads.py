"""The heads as text: KL, weight, share and sparkline, or entropy and clip fraction; names the head of largest share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from esper_core.health import HealthLevel, classify_entropy, classify_kl, format_kl
from esper_core.reading.glyphs import ABSENT, LEVELS
from esper_core.reading.judged import judged_policy
from esper_core.reading.numbers import count, percent, plain
from esper_core.reading.rows import NOT_DEFINED, kl_range
from esper_core.terminal import one_line
from esper_sink_tui.lines import fit, frame, line, pad, row
from esper_sink_tui.spark import spark

if TYPE_CHECKING:
    from esper_core.health import KLLimits
    from esper_core.reading.glyphs import Role
    from esper_core.reading.model import ScreenModel
    from esper_core.reading.snapshot import HeadState
    from esper_sink_tui.lines import Line, Span

__all__ = ["heads_panel"]

_NAME: Final = 13
_BAR: Final = 5
_EIGHTHS: Final = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_PAIRS_FROM: Final = 76
_TRAIL: Final = (("LAST 10", 11), ("STATE", 5))


def heads_panel(model: ScreenModel, width: int, height: int, *, zoomed: bool = False) -> list[Line]:
    """One row a head; two heads a row where the panel is wide and low. Heads that do not fit are counted."""
    heads, entropy = model.snapshot.heads, model.head_view == "entropy"
    leading, limits = _leading(heads), model.snapshot.tamiyo.limits
    lost = model.snapshot.last is not None and model.snapshot.last.health is HealthLevel.NON_FINITE
    room = height - 2
    title = "ENTROPY AND CLIP BY HEAD" if entropy else "KL BY HEAD"
    body: list[Line]
    if not heads:
        body = [line((_missing(model), "dim"))]
    elif room >= len(heads) + 1 or width < _PAIRS_FROM:
        rows = [
            _entropy_row(head, lost=lost) if entropy else _kl_row(head, leading, limits, lost=lost) for head in heads
        ]
        body = [_entropy_header() if entropy else _kl_header(), *rows]
        if len(body) > room:
            hidden = len(body) - room + 1
            body = [*body[: room - 1], line((_hidden(hidden, zoomed=zoomed), "dim"))]
    else:
        cells = [_entropy_cell(head, lost=lost) if entropy else _kl_cell(head, limits, lost=lost) for head in heads]
        body = _pairs(cells, room, (width - 4) // 2, zoomed=zoomed)
    return frame(title, _drift(model, leading), body, width, height)


def _leading(heads: tuple[HeadState, ...]) -> HeadState | None:
    """The head with the largest share."""
    known = [head for head in heads if head.share is not None and math.isfinite(head.share)]
    return max(known, key=lambda head: head.share or 0.0, default=None)


def _drift(model: ScreenModel, leading: HeadState | None) -> str:
    """Names the head at CRITICAL that the verdict names, else the head with the largest share of a high KL."""
    critical = judged_policy(model.snapshot).blamed
    calm = model.snapshot.tamiyo.level.severity < HealthLevel.WARNING.severity
    if critical is not None and (calm or leading is None or critical.name != leading.name):
        return f"{one_line(critical.name)} critical over {critical.decisions}"
    if leading is None or calm:
        return "d KL" if model.head_view == "entropy" else "d entropy, clip"
    return f"{one_line(leading.name)} carries {percent(leading.share, 0)}"


def _sign(level: HealthLevel, *, idle: bool, lost: bool = False, most: bool = False) -> tuple[str, Role]:
    """A head's own level; the leading one is marked even where the level is calm.

    ``lost``: the update was not finite, so that a head without a value was not idle.
    """
    if idle and lost:
        return f"{ABSENT} lost", "dim"
    if idle:
        return "· idle", "dim"
    sign = LEVELS[level]
    return f"{sign.glyph} {'most' if most and level is HealthLevel.HEALTHY else sign.word}", sign.role


def _judged(role: Role) -> Role:
    return role if role in {"warn", "crit", "bad"} else ""


def _bar(share: float | None, width: int) -> str:
    """A share as a bar of eighths of cells; any share above 0 gets at least the smallest bar."""
    if share is None or not math.isfinite(share):
        return " " * width
    eighths = max(round(min(max(share, 0.0), 1.0) * width * 8), 1 if share > 0 else 0)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).ljust(width)


# --- KL ---------------------------------------------------------------------------------------


def _kl_header() -> Line:
    columns = (
        ("HEAD", _NAME),
        ("KL", -10),
        ("WEIGHT", -7),
        ("", 2),
        ("SHARE", _BAR + 6),
        ("LAST 10", 11),
        ("STATE", 5),
    )
    return line((row(*columns), "dim"))


def _kl_row(head: HeadState, leading: HeadState | None, limits: KLLimits, *, lost: bool) -> Line:
    text, role = _sign(classify_kl(head.kl, limits), idle=head.kl is None, lost=lost, most=head is leading)
    return line(
        pad(one_line(head.name), _NAME),
        (pad(format_kl(head.kl, limits=limits), 10, "right"), _judged(role)),
        f"{pad(plain(head.weight, 2), 7, 'right')}  ",
        (_bar(head.share, _BAR), _judged(role) or "info"),
        f"{pad(percent(head.share, 0), 5, 'right')} ",
        (spark(head.kl_history, *kl_range(limits)), _judged(role) or "dim"),
        " ",
        (text, role),
    )


def _kl_cell(head: HeadState, limits: KLLimits, *, lost: bool) -> Line:
    text, role = _sign(classify_kl(head.kl, limits), idle=head.kl is None, lost=lost)
    return line(
        pad(one_line(head.name), _NAME),
        (pad(format_kl(head.kl, limits=limits), 10, "right"), _judged(role)),
        (f" {text[0]} ", role),
        (_bar(head.share, _BAR), _judged(role) or "info"),
        pad(percent(head.share, 0), 5, "right"),
    )


# --- entropy and clip fraction ------------------------------------------------------------------


def _entropy_header() -> Line:
    columns = (
        ("HEAD", _NAME),
        ("ENTROPY", -10),
        ("", 2),
        ("LAST 10", 11),
        ("CLIP", -7),
        ("ACTIVE", -9),
        ("", 2),
        ("STATE", 5),
    )
    return line((row(*columns), "dim"))


def _entropy_text(head: HeadState) -> str:
    """Normalised, 0..1; of a density in nats."""
    if not head.differential or head.entropy is None:
        return plain(head.entropy_normalised, 3)
    return f"{plain(head.entropy, 1)} nats"


def _entropy_sign(head: HeadState, *, lost: bool) -> tuple[str, Role]:
    """A head's level by its normalised entropy; a density has none."""
    idle = head.kl is None if head.differential else head.entropy_normalised is None
    if head.differential and not idle:
        return f"{ABSENT} n/a", "dim"
    return _sign(classify_entropy(head.entropy_normalised), idle=idle, lost=lost)


def _entropy_row(head: HeadState, *, lost: bool) -> Line:
    text, role = _entropy_sign(head, lost=lost)
    trail: Span = (
        (NOT_DEFINED, "dim")
        if head.differential
        else (f"{spark(head.entropy_history, 0.0, 1.0)} ", _judged(role) or "dim")
    )
    return line(
        pad(one_line(head.name), _NAME),
        (pad(_entropy_text(head), 10, "right"), _judged(role)),
        "  ",
        trail,
        f"{pad(percent(head.clip_fraction), 7, 'right')}{pad(count(head.decisions), 9, 'right')}  ",
        (text, role),
    )


def _entropy_cell(head: HeadState, *, lost: bool) -> Line:
    text, role = _entropy_sign(head, lost=lost)
    return line(
        pad(one_line(head.name), _NAME),
        (pad(_entropy_text(head), 10, "right"), _judged(role)),
        (f" {text[0]} ", role),
        f"clip {pad(percent(head.clip_fraction), 6, 'right')}",
    )


def _hidden(count: int, *, zoomed: bool) -> str:
    return f"and {count} more" if zoomed else f"and {count} more: z zooms"


def _pairs(cells: list[Line], room: int, half: int, *, zoomed: bool) -> list[Line]:
    """Two heads a line."""
    if len(cells) > room * 2:
        hidden = len(cells) - room * 2 + 1
        cells = [*cells[: room * 2 - 1], line((_hidden(hidden, zoomed=zoomed), "dim"))]
    starts = range(0, len(cells), 2)
    return [tuple(span for cell in cells[start : start + 2] for span in fit(cell, half)) for start in starts]


def _missing(model: ScreenModel) -> str:
    """Why there is no head."""
    if model.life.journal.absent:
        return "no journal to read them from"
    return "this run reports no heads" if model.snapshot.updates else "no update yet"

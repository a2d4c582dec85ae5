"""HealthStatusPanel as text: one row a metric, with value, sparkline, arrow, limits and state in fixed columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_core.health import WARM_UP_UPDATES, HealthLevel, VerdictKind
from esper_core.reading.glyphs import ABSENT, LEVELS, STOP, VERDICTS, Sign
from esper_core.reading.rows import METRICS, absence
from esper_core.reading.tamiyo import HISTORY
from esper_core.reading.trend import arrow
from esper_sink_tui.lines import fit_all, frame, line, pad
from esper_sink_tui.panels.details import detail_lines
from esper_sink_tui.panels.divergences import divergence_lines
from esper_sink_tui.spark import marks, spark

if TYPE_CHECKING:
    from esper_core.reading.glyphs import Role
    from esper_core.reading.model import ScreenModel
    from esper_core.reading.rows import Metric
    from esper_core.reading.snapshot import SanctumSnapshot
    from esper_core.reading.tamiyo import TamiyoState
    from esper_sink_tui.lines import Line, Span

__all__ = ["health_panel", "metric_row"]

_LABEL: Final = 14
_VALUE: Final = 10
_LIMITS: Final = 15
_STATE: Final = 9
_FULL: Final = _LABEL + _VALUE + HISTORY + _LIMITS + _STATE + 5
_FRAMED: Final = 4
"""Rows from which the panel has a frame and a header; below, the KL comes first."""
_DETAILED: Final = 18
"""Rows from which a zoomed panel shows every number of the update too."""
_EARLY: Final = Sign(VERDICTS[VerdictKind.WARM_UP].glyph, "warm-up", "dim")
_NO_LIMITS: Final = _FULL - _LIMITS - 1


def health_panel(model: ScreenModel, width: int, height: int, *, zoomed: bool = False) -> list[Line]:
    """The metrics that fit, KL first, with the early stops marked beneath the KL's sparkline.

    Too narrow for every column, the limits go first and then the sparklines; value and state stay.
    """
    state, room = model.snapshot.tamiyo, width - 4
    shown = [_row(item, model, room) for item in METRICS]
    rows = [_header(room), shown[0], _stop_row(model.snapshot, room), *shown[1:]]
    if height < _FRAMED:
        return fit_all([shown[0], *shown[1:]], width, height)
    if height >= _DETAILED and model.snapshot.last is not None:
        title = f"every number of update {model.snapshot.updates}, attempt {state.attempt}"
        if others := divergence_lines(model.snapshot):
            rows.extend([(), line(("other divergences, never a level", "title")), *others])
        rows.extend([(), line((title, "title")), *detail_lines(model.snapshot.last, state, room)])
    return frame("POLICY HEALTH", "z back" if zoomed else "z zoom", rows, width, height)


def _columns(room: int, label: Span, value: Span, trail: tuple[Span, ...], limits: Span, state: Span) -> Line:
    """One row in fixed columns."""
    parts: list[Span] = [label, value]
    if room >= _NO_LIMITS:
        parts.extend([(" ", ""), *trail])
    if room >= _FULL:
        parts.extend([(" ", ""), limits])
    return line(*parts, (" ", ""), state)


def _header(room: int) -> Line:
    return _columns(
        room,
        (pad("METRIC", _LABEL), "dim"),
        (pad("VALUE", _VALUE, "right"), "dim"),
        ((pad(f"LAST {HISTORY}", HISTORY + 2), "dim"),),
        (pad("WARN / CRIT", _LIMITS), "dim"),
        ("STATE", "dim"),
    )


def _row(item: Metric, model: ScreenModel, room: int) -> Line:
    """A metric's row; of an update that was lost to NaN or Inf the rows say so, since nothing more will come of it."""
    last = model.snapshot.last
    lost = last is not None and last.health is HealthLevel.NON_FINITE
    early = item.key == "explained_variance" and model.snapshot.updates <= WARM_UP_UPDATES
    return metric_row(item, model.snapshot.tamiyo, room, absent=_absent(item, model), lost=lost, early=early)


def _absent(item: Metric, model: ScreenModel) -> str:
    """Why a metric has no value and will hardly get one; empty while it has one or may yet."""
    return absence(item, model.snapshot, ended=model.life.state.ended)


def metric_row(
    item: Metric, state: TamiyoState, room: int = _FULL, *, absent: str = "", lost: bool = False, early: bool = False
) -> Line:
    """One metric: its name, its history, its limits and its state.

    Args:
        item: the metric.
        state: the policy's.
        room: columns.
        absent: why it has no value at all.
        lost: the last update was not finite, so that what it has no value of is lost and not to come.
        early: a bad value means nothing yet: no value function explains anything in its first updates.
    """
    if absent and room < _NO_LIMITS:
        return line((pad(item.name(state), _LABEL), ""), (f"  {absent}", "dim"))
    if absent:
        return _columns(
            room,
            (pad(item.name(state), _LABEL), ""),
            (pad(ABSENT, _VALUE, "right"), ""),
            ((pad(absent, HISTORY + 2), "dim"),),
            (pad("", _LIMITS), "dim"),
            (ABSENT, "dim"),
        )
    level = item.level(state)
    sign = LEVELS[level]
    if level is HealthLevel.UNKNOWN and lost and item.value(state) is None:
        sign = LEVELS[HealthLevel.NON_FINITE] if item.key == "kl_divergence" else Sign(ABSENT, "lost", "dim")
    if early and level in {HealthLevel.WARNING, HealthLevel.CRITICAL}:
        sign = _EARLY
    history = list(item.history(state))
    lo, hi = item.bounds(state)
    judged: Role = sign.role if sign.role in {"warn", "crit", "bad"} else ""
    return _columns(
        room,
        (pad(item.name(state), _LABEL), ""),
        (pad(item.text(state), _VALUE, "right"), judged),
        ((spark(history, lo, hi, HISTORY), judged or "dim"), (f" {arrow(history, dead_band=item.dead_band)}", "")),
        (pad(str(item.limits(state)), _LIMITS), "dim"),
        (f"{sign.glyph} {sign.word}", sign.role),
    )


def _stop_row(snapshot: SanctumSnapshot, room: int) -> Line:
    """Which of the sparkline's updates stopped early, and how many."""
    flags = snapshot.tamiyo.early_stops
    stopped = snapshot.stopped_recently
    words = f"stopped {stopped} of last {len(flags)}" if room >= _FULL else f"{stopped}/{len(flags)}"
    counted = f"{STOP} {words}" if stopped else ""
    label: Span = (pad("  early stops", _LABEL), "dim")
    if room < _NO_LIMITS:
        return line(label, (pad(f"{STOP} {stopped} of {len(flags)}" if stopped else "", _VALUE, "right"), "stop"))
    return line(label, " " * (_VALUE + 1), (marks(flags, HISTORY), "stop"), "   ", (counted, "stop"))

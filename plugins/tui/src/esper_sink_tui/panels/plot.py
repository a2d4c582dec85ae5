"""KL and return by update, over one axis: in the app, for ``--once``, and as what copying the plot copies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from esper_core.health import HealthLevel, format_kl
from esper_core.reading.glyphs import STOP
from esper_core.reading.numbers import plain
from esper_core.reading.returns import return_to_show
from esper_core.reading.rows import kl_range, limit_text
from esper_core.reading.series import headroom
from esper_sink_tui.chart import Rule, chart, column_of, ids_line, row_of
from esper_sink_tui.lines import frame, line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.events import PPOUpdatePayload
    from esper_core.health import KLLimits
    from esper_core.reading.glyphs import Role
    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.lines import Line, Span

__all__ = ["plot_panel", "plot_title"]

_LABEL: Final = 5
"""Columns of the axis's labels; more where a range needs longer ones."""
_VALUES_FROM: Final = 44
"""Width from which a limit's label has its value."""
_BOTH_FROM: Final = 9
"""Rows within the frame from which the return is drawn below the KL."""


def plot_title(model: ScreenModel) -> str:
    """What the plot shows."""
    return f"{model.snapshot.tamiyo.limits.name.upper()} BY UPDATE, LAST {len(model.snapshot.recent)}"


def plot_panel(model: ScreenModel, width: int, height: int) -> list[Line]:
    """The KL over its fixed range with the limits on their rows, the early stops on its axis, the return below.

    A low panel has the KL alone, a very low one nothing but its last value.
    """
    snapshot = model.snapshot
    limits, recent = snapshot.tamiyo.limits, snapshot.recent
    rows = height - 2
    if rows < 3 or width < 16 or not recent:
        missing = "no journal to draw it from" if model.life.journal.absent else "no update yet"
        text = f"last {format_kl(recent[-1].judged_kl(limits.on), limits=limits)}" if recent else missing
        return frame("KL BY UPDATE", "h history", [line((text, "dim"))], width, height)
    returns = [(item.update_id, return_to_show(item)) for item in recent]
    known = [value for _, value in returns if value is not None and math.isfinite(value)]
    below = max((rows - 2) * 2 // 5, 3) if known and rows >= _BOTH_FROM else 0
    above = rows - 2 - below
    stop = recent[-1].stop_threshold if recent[-1].stop_on == limits.on else None
    labels = _kl_labels(limits, above, stop=stop, values=width >= _VALUES_FROM)
    return_labels = _return_labels(known, below)
    axis = max(_LABEL, *(len(text) for text, _ in (*labels, *return_labels)))
    room = width - 4 - axis - 2
    if room < 1:
        return frame("KL BY UPDATE", "h history", [line(("too narrow to draw", "dim"))], width, height)
    ends = (float(recent[0].update_id), float(recent[-1].update_id))
    drawn = chart(
        [(item.update_id, _kl(item, limits)) for item in recent],
        ends=ends,
        bounds=kl_range(limits),
        size=(room, above),
        rules=_rules(limits, stop),
        resumes=snapshot.resumes,
    )
    body = [_row(label, axis, cells) for label, cells in zip(labels, drawn, strict=True)]
    body.append(_axis(recent, axis, ends, room))
    if below:
        drawn = chart(
            returns, ends=ends, bounds=headroom(known), size=(room, below), role="info", resumes=snapshot.resumes
        )
        body.extend(_row(label, axis, cells) for label, cells in zip(return_labels, drawn, strict=True))
    body.append(line((f"{'':{axis + 2}}{ids_line([item.update_id for item in recent], room)}", "dim")))
    title = plot_title(model)
    return frame(title.replace(" BY UPDATE", " AND RETURN") if below else title, "h history", body, width, height)


def _kl(update: PPOUpdatePayload, limits: KLLimits) -> float | None:
    """The judged KL; NaN for an update that was not finite and measured none: it is drawn as that, not left out."""
    kl = update.judged_kl(limits.on)
    return math.nan if kl is None and update.health is HealthLevel.NON_FINITE else kl


def _row(label: tuple[str, Role], axis: int, cells: Line) -> Line:
    return line((f"{label[0]:>{axis}} ", label[1]), ("│", "frame"), *cells)


def _axis(recent: Sequence[PPOUpdatePayload], axis: int, ends: tuple[float, float], room: int) -> Line:
    """The axis between the two curves, with the updates that stopped early."""
    stops = {column_of(item.update_id, ends, room) for item in recent if item.early_stop is not None}
    marks: list[Span] = [(STOP, "stop") if column in stops else ("─", "frame") for column in range(room)]
    return line((f"{'0':>{axis}} ", "dim"), ("└", "frame"), *marks)


def _rules(limits: KLLimits, stop: float | None) -> list[Rule]:
    """The limits behind the curve; in one row critical covers warning, and either the stop threshold."""
    lowest = [Rule(stop, "╌", "stop")] if stop is not None and stop < kl_range(limits)[1] else []
    return [*lowest, Rule(limits.warning, "┄", "warn"), Rule(limits.critical, "─", "crit")]


def _kl_labels(limits: KLLimits, rows: int, *, stop: float | None, values: bool) -> list[tuple[str, Role]]:
    """What stands on the axis at each row, from above: names of limits, else the value of the row's middle, nats."""
    bounds = kl_range(limits)
    named: list[tuple[float, str, Role]] = [(limits.warning, "warn", "warn"), (limits.critical, "crit", "crit")]
    names: dict[int, tuple[str, Role]] = {}
    for value, name, role in named:
        row = row_of(value, bounds, rows)
        text = f"{name} {limit_text(value).removeprefix('0')}" if values else name
        names[row] = (f"{names[row][0].split()[0]}/{name}" if row in names else text, role)
    if stop is not None and stop < bounds[1]:
        names.setdefault(row_of(stop, bounds, rows), ("stop", "stop"))
    # As fine as a quarter of the step between two labels, and two figures of the top.
    top = bounds[1]
    unit = min(top / rows / 4, 10.0 ** (math.floor(math.log10(top)) - 1))
    decimals = max(math.ceil(-math.log10(unit) - 1e-9), 0)
    every = 1 if rows <= 12 else 2
    return [
        names[row]
        if row in names
        else (_tick(top, decimals) if row == 0 else _tick(_middle(row, rows, top), decimals), "dim")
        if row % every == 0
        else ("", "dim")
        for row in range(rows)
    ]


def _middle(row: int, rows: int, top: float) -> float:
    """The value in the middle of a row."""
    dots = rows * 4
    return (dots - 1 - (row * 4 + 1.5)) / (dots - 1) * top


def _tick(value: float, decimals: int) -> str:
    """A value on the axis: ``.045``, ``1.50``, ``2.3e-07``."""
    if decimals > 6 or value >= 1e6:
        return f"{value:.1e}"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("0") if decimals else text


def _return_labels(known: Sequence[float], rows: int) -> list[tuple[str, Role]]:
    """Greatest and least return at the ends of its rows, and its name between."""
    if not rows:
        return []
    digits = 1 if max(abs(value) for value in known) >= 1 else 3
    bounds = headroom(known)
    texts = [""] * rows
    texts[row_of(min(known), bounds, rows)] = plain(min(known), digits)
    texts[row_of(max(known), bounds, rows)] = plain(max(known), digits)
    texts[next((row for row in range(rows // 2, rows) if not texts[row]), 0)] = "return"
    return [(text, "dim" if text != "return" else "info") for text in texts]

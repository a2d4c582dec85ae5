"""What stands below the plots of whole runs: each run's newest numbers, or those at the cursor."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from esper_core.health import classify_kl, format_kl
from esper_core.reading.curves import RETURN, Abscissa, curve, moment_at, places, smoothed
from esper_core.reading.glyphs import LEVELS
from esper_core.reading.numbers import count, duration, plain
from esper_core.reading.series import Band, Series, bands
from esper_core.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.health import KLOn
    from esper_core.reading.curves import Unit

__all__ = ["LETTERS", "cursor_lines", "groups", "kl_band", "legend_lines", "metric_band", "metric_text", "rows_of"]

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_HEADS: Final = 6
"""The largest number of heads beside a cursor."""


def groups(series: Sequence[Series]) -> list[list[Series]]:
    """The runs of each experiment, those judged on another KL apart: a mean over both would be of neither."""
    found: dict[tuple[str, KLOn], list[Series]] = {}
    for item in series:
        found.setdefault((item.group, item.limits.on), []).append(item)
    return list(found.values())


def kl_band(members: Sequence[Series], unit: Unit = "updates", weight: float = 0.0) -> Band | None:
    """Mean and spread of one experiment's KL."""
    return _band(members, [list(zip(item.updates, item.kl, strict=True)) for item in members], unit, weight)


def metric_band(
    members: Sequence[Series], name: str = RETURN, unit: Unit = "updates", weight: float = 0.0
) -> Band | None:
    """Likewise of a metric."""
    if name == RETURN:
        curves = [list(zip(item.return_updates, item.returns, strict=True)) for item in members]
    else:
        curves = [curve(item, name) for item in members]
    return _band(members, curves, unit, weight)


def _band(
    members: Sequence[Series], curves: Sequence[list[tuple[int, float]]], unit: Unit, weight: float
) -> Band | None:
    runs = []
    for item, points in zip(members, curves, strict=True):
        place = Abscissa(item, unit)
        runs.append((item.group, [place(x) for x, _ in points], smoothed([y for _, y in points], weight)))
    return next(iter(bands(runs)), None)


def legend_lines(series: Sequence[Series], *, grouped: bool, name: str = RETURN) -> str:
    """Each run with its letter, its experiment and its last numbers; or each experiment with its seeds.

    Numbers of an experiment are formatted against the limits of its first run.

    Args:
        series: the runs.
        grouped: by experiment.
        name: of the metric beside the KL.
    """
    lines = []
    if grouped:
        for letter, members in zip(LETTERS, groups(series), strict=False):
            drift, found = kl_band(members), metric_band(members, name)
            if drift is None:
                continue
            limits = members[0].limits
            middle = metric_text(found.mean[-1] if found is not None else None, name)
            half = (found.high[-1] - found.low[-1]) / 2 if found is not None else None
            spread = f" ± {metric_text(half, name)}" if half is not None else ""
            shown = f"{limits.name} {format_kl(drift.mean[-1], limits=limits)}"
            seeds = f"{drift.seeds} {'seed' if drift.seeds == 1 else 'seeds'}"
            lines.append(f"{letter}  {one_line(drift.label)}  {seeds}  {shown}  {one_line(name)} {middle}{spread}")
        return "\n".join(lines)
    for letter, item in zip(LETTERS, series, strict=False):
        points = zip(item.return_updates, item.returns, strict=True) if name == RETURN else curve(item, name)
        value = next((value for _, value in reversed(list(points)) if not math.isnan(value)), None)
        joined = f"  each point of the KL is the largest of {item.joined}" if item.joined > 1 else ""
        update, kl = item.last if item.last is not None else (0, None)
        shown = f"{item.limits.name} {format_kl(kl, limits=item.limits)}"
        evaluated = f"  evaluation {plain(item.evaluations[-1].return_mean, 1)}" if item.evaluations else ""
        lines.append(
            f"{letter}  {one_line(item.label)}  {one_line(item.group)}  update {update}  {shown}"
            f"  {one_line(name)} {metric_text(value, name)}{evaluated}{joined}"
        )
    return "\n".join(lines)


def metric_text(value: float | None, name: str) -> str:
    """A metric's value: returns with a decimal, others in four figures."""
    if value is None or not math.isfinite(value) or name == RETURN:
        return plain(value, 1)
    return f"{value:.4g}"


def cursor_lines(series: Sequence[Series], update_id: int, *, name: str, heads: bool = False) -> str:
    """Each run's numbers at an update, or at the last one before it.

    Args:
        series: the runs.
        update_id: where the cursor stands.
        name: of the metric beside the KL.
        heads: show the heads' KL instead of the metric.
    """
    return "\n".join(
        f"{f'{letter}  {one_line(item.label)}  ' if len(series) > 1 else ''}{_at(item, update_id, name, heads=heads)}"
        for letter, item in zip(LETTERS, series, strict=False)
    )


def _at(item: Series, update_id: int, name: str, *, heads: bool) -> str:
    known = places(item)
    at = bisect_right(known, update_id) - 1
    if at < 0:
        return f"nothing before update {known[0]}" if known else "no update yet"
    here = moment_at(item, known[at])
    sign = LEVELS[classify_kl(here.kl, item.limits)]
    level = f" {sign.glyph} {sign.word}" if here.kl is not None else ""
    steps = f"  steps {count(round(here.steps))}" if here.steps is not None else ""
    time = f"  time {duration(here.seconds)}" if here.seconds is not None else ""
    first = f"update {here.update_id}{steps}{time}  {item.limits.name} {format_kl(here.kl, limits=item.limits)}{level}"
    if here.read is None:
        return first
    if heads:
        measured = sorted((head for head in here.read.heads if head.kl is not None), key=lambda head: -(head.kl or 0.0))
        values = [f"{one_line(head.name)} {format_kl(head.kl, limits=item.limits)}" for head in measured]
        rest = "  ".join(values[:_HEADS])
    else:
        value = next((value for x, value in curve(item, name) if x == here.read.update_id), None)
        rest = f"{one_line(name)} {metric_text(value, name)}"
    elsewhere = f" (update {here.read.update_id})" if here.read.update_id != here.update_id else ""
    evaluated = [found for found in item.evaluations if found.update_id <= here.update_id]
    played = (
        f"  evaluation {plain(evaluated[-1].return_mean, 1)} (update {evaluated[-1].update_id})" if evaluated else ""
    )
    return f"{first}  {rest}{elsewhere}{played}"


def rows_of(text: str, width: int) -> int | None:
    """How many rows a text takes; None where a line is wrapped."""
    lines = text.split("\n")
    return None if any(cell_len(item) > width for item in lines) else len(lines)

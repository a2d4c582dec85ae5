"""The drawings of a report as SVG: a curve with its limits and marks, and heads as a heat map."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

from esper_core.cli._report_markup import Markup, element, joined, table
from esper_core.reading.numbers import MISSING, NON_FINITE, mean_kl
from esper_core.reading.series import extremes, peaks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from esper_core.health import KLLimits

__all__ = ["curve", "heat_map"]

_WIDTH: Final = 760
_HEIGHT: Final = 230
_LEFT: Final = 64
_FITS: Final = 7
"""Letters of an axis label that have room at the left in any font."""
_RIGHT: Final = 132
_TOP: Final = 12
_BOTTOM: Final = 34
_BEYOND: Final = 6.0
"""A curve's scale reaches at most so many times its highest limit: one peak must not flatten the rest."""
_LABEL: Final = 13
"""Least distance of two labels."""
_CELLS: Final = 80
_ROWS: Final = 100
_HEADS: Final = 64
_LEVELS: Final = (0.1, 0.25, 0.5, 1.0, 2.0)
"""Bounds of the heat map's colours, as parts of the critical limit."""


def curve(
    title: str,
    ids: Sequence[int],
    values: Sequence[float],
    *,
    limits: Mapping[str, float],
    stopped: Sequence[int] = (),
    broken: Sequence[int] = (),
    points: int = 400,
    digits: int = 4,
) -> Markup:
    """A number over the updates, and its table.

    Args:
        title: what it shows, with its unit.
        ids: of the updates, ascending.
        values: of each; NaN leaves a gap.
        limits: word -> height of a line.
        stopped: updates marked below the curve: ended early.
        broken: updates marked at the top: not finite.
        points: that remain at most: of joined neighbours the smallest and the largest value.
        digits: decimals in the table.
    """
    if not any(map(math.isfinite, values)) and not broken:
        return element("p", f"{title}: not measured.", class_="quiet")
    groups = extremes(ids, values, points // 2 if len(ids) > points else points)
    xs, ys = zip(*(point for group in groups for point in group.points), strict=True)
    width = math.ceil(len(ids) / len(groups))
    low, high = _range(ys, limits)
    first, last = ids[0], ids[-1]

    def across(update: int) -> float:
        return round(_LEFT + (update - first) / max(last - first, 1) * (_WIDTH - _LEFT - _RIGHT), 1)

    def up(value: float) -> float:
        inside = min(max(value, low), high)
        return round(_TOP + (high - inside) / (high - low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    beyond = [x for x, y in zip(xs, ys, strict=True) if y > high]
    parts = [
        element("title", title),
        element("desc", _described(ys, stopped, broken, beyond, first, last, width, digits)),
        *_axes(low, high, first, last, across, up),
    ]
    shown = {word: up(height) for word, height in limits.items() if low <= height <= high}
    for place, word in enumerate(limits):
        if word in shown:
            y = shown[word]
            parts.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_=f"limit l{place}"))
    for word, y in _apart(shown).items():
        parts.append(element("text", f"{word} {limits[word]:g}", x=_WIDTH - _RIGHT + 4, y=y + 4, class_="label"))
    parts.append(element("path", d=_path(xs, ys, across, up), class_="curve"))
    parts.extend(_marks(beyond, across, _TOP, "beyond"))
    parts.extend(_marks(_thinned(stopped, points), across, _HEIGHT - _BOTTOM + 6, "stop"))
    parts.extend(_marks(_thinned(broken, points), across, _TOP + 6, "broken"))
    drawing = element("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", xmlns="http://www.w3.org/2000/svg")
    return joined(
        (element("figure", drawing, element("figcaption", title)), _numbers(title, ids, values, stopped, digits))
    )


def _apart(heights: Mapping[str, float]) -> dict[str, float]:
    """Heights of labels, from the top down, such that none covers another."""
    found: dict[str, float] = {}
    free = -math.inf
    for word, y in sorted(heights.items(), key=lambda item: item[1]):
        found[word] = max(y, free)
        free = found[word] + _LABEL
    return found


def _axis(value: float) -> str:
    """A number on an axis, in few letters."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _range(ys: Sequence[float], limits: Mapping[str, float]) -> tuple[float, float]:
    finite = [value for value in ys if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if limits:
        top = max(limits.values())
        low, high = min(0.0, low), min(max(high, 1.1 * top), _BEYOND * top)
        low = max(low, -high)
    if not high - low > 1e-12 * max(abs(high), abs(low), 1e-12):
        spread = abs(high) * 0.1 or 1.0
        low, high = low - spread, high + spread
    return low, high if math.isfinite(high - low) else low + 1.0


def _described(
    ys: Sequence[float],
    stopped: Sequence[int],
    broken: Sequence[int],
    beyond: Sequence[int],
    first: int,
    last: int,
    width: int,
    digits: int,
) -> str:
    finite = [value for value in ys if math.isfinite(value)]
    text = [f"Updates {first} to {last}."]
    if finite:
        text.append(f"From {min(finite):.{digits}f} to {max(finite):.{digits}f}, last {finite[-1]:.{digits}f}.")
    if width > 1:
        text.append(f"Of each {width} updates the smallest and the largest are drawn.")
    if stopped:
        text.append(f"{len(stopped)} updates stopped early.")
    if broken:
        text.append(f"{len(broken)} updates are not finite.")
    if beyond:
        text.append(f"{len(beyond)} points lie above the top of the drawing.")
    return " ".join(text)


def _axes(
    low: float, high: float, first: int, last: int, across: Callable[[int], float], up: Callable[[float], float]
) -> list[Markup]:
    parts = []
    for value in (low, (low + high) / 2, high):
        y = up(value)
        parts.append(element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        label = _axis(value)
        long = len(label) > _FITS
        parts.append(
            element(
                "text",
                label,
                x=_LEFT - 6,
                y=y + 4,
                text_anchor="end",
                class_="label",
                textLength=_LEFT - 8 if long else None,
                lengthAdjust="spacingAndGlyphs" if long else None,
            )
        )
    for update in dict.fromkeys((first, (first + last) // 2, last)):
        place = across(update)
        parts.append(
            element("text", str(update), x=place, y=_HEIGHT - 6, text_anchor="middle", class_="label"),
        )
    parts.append(element("text", "update", x=_WIDTH - _RIGHT + 36, y=_HEIGHT - 6, class_="label"))
    return parts


def _path(xs: Sequence[int], ys: Sequence[float], across: Callable[[int], float], up: Callable[[float], float]) -> str:
    """Lines between neighbours; NaN and -Inf leave a gap, a value alone is a dot."""
    found, gap = [], True
    for x, y in zip(xs, ys, strict=True):
        if math.isnan(y) or y == -math.inf:
            gap = True
            continue
        found.append(f"M{across(x)} {up(y)}h.1" if gap else f"L{across(x)} {up(y)}")
        gap = False
    return "".join(found)


def _marks(updates: Sequence[int], across: Callable[[int], float], y: float, kind: str) -> list[Markup]:
    signs = {"stop": "M{} {}l-3 6h6z", "beyond": "M{} {}l-4 8h8z", "broken": "M{} {}m-4 -4l8 8m0 -8l-8 8"}
    data = "".join(signs[kind].format(across(update), y) for update in updates)
    return [element("path", d=data, class_=kind)] if data else []


def _thinned(updates: Sequence[int], points: int) -> Sequence[int]:
    """So many of the marks that they can still be told apart."""
    return updates[:: max(math.ceil(len(updates) / points), 1)]


def _numbers(title: str, ids: Sequence[int], values: Sequence[float], stopped: Sequence[int], digits: int) -> Markup:
    ended = sorted(stopped)
    groups = extremes(ids, values, _ROWS)
    rows = []
    for group in groups:
        count = bisect_right(ended, group.last) - bisect_left(ended, group.first)
        which = str(group.first) if group.first == group.last else f"{group.first} to {group.last}"
        numbers = [_number(group.high[1], digits)]
        if len(groups) < len(ids):
            numbers.insert(0, _number(group.low[1], digits))
        rows.append((which, *numbers, str(count) if count else ""))
    heading: tuple[str, ...] = ("update", "value", "stopped early")
    if len(groups) < len(ids):
        heading = ("updates", "smallest", "largest", "stopped early")
    return element("details", element("summary", f"{title} as a table"), table(title, heading, rows, numbers=True))


def _number(value: float, digits: int) -> str:
    if math.isnan(value):
        return MISSING
    return f"{value:.{digits}f}" if math.isfinite(value) else NON_FINITE


def heat_map(
    ids: Sequence[int], heads: Mapping[str, Sequence[float]], kinds: Mapping[str, str], limits: KLLimits
) -> Markup:
    """KL of each head over the updates, a row a head, stronger colours where larger; and its table."""
    if not heads:
        return element("p", "No head was measured.", class_="quiet")
    shown = dict(list(heads.items())[:_HEADS])
    rows = {name: peaks(ids, values, _CELLS) for name, values in shown.items()}
    cells = max(len(ys) for _, ys, _ in rows.values())
    wide, tall, left = (_WIDTH - 140 - 8) / cells, 20, 140
    parts = [
        element("title", "KL by head"),
        element("desc", _worst(heads, ids)),
    ]
    for row, (name, (_, ys, _)) in enumerate(rows.items()):
        label = name if len(name) <= 18 else f"{name[:17]}…"
        parts.append(element("text", label, x=left - 8, y=row * tall + 14, text_anchor="end", class_="label"))
        for place, y in enumerate(ys):
            parts.append(
                element(
                    "rect",
                    x=round(left + place * wide, 1),
                    y=row * tall,
                    width=round(wide + 0.2, 1),
                    height=tall - 2,
                    class_=_shade(y, limits.critical),
                )
            )
    size = f"0 0 {_WIDTH} {len(rows) * tall}"
    drawing = element("svg", *parts, viewBox=size, role="img", xmlns="http://www.w3.org/2000/svg")
    bounds = ", ".join(f"{part * limits.critical:.3g}" for part in _LEVELS)
    more = f" The first {_HEADS} of {len(heads)} heads." if len(heads) > _HEADS else ""
    caption = (
        f"KL by head, nats, first to last update; stronger colours from {bounds} on; dashed frame: not finite.{more}"
    )
    return joined((element("figure", drawing, element("figcaption", caption)), _heads_table(ids, heads, kinds)))


def _worst(heads: Mapping[str, Sequence[float]], ids: Sequence[int]) -> str:
    found = [
        (value, name, ids[place])
        for name, values in heads.items()
        for place, value in enumerate(values)
        if math.isfinite(value)
    ]
    if not found:
        return "No finite value."
    value, name, update = max(found)
    return f"{len(heads)} heads. The largest is {name} at update {update}: {mean_kl(value)} nats."


def _shade(value: float, critical: float) -> str:
    if math.isnan(value):
        return "none"
    return f"h{sum(value >= part * critical for part in _LEVELS)}" if math.isfinite(value) else "broken-cell"


def _heads_table(ids: Sequence[int], heads: Mapping[str, Sequence[float]], kinds: Mapping[str, str]) -> Markup:
    rows = []
    for name, values in heads.items():
        finite = [(value, update) for value, update in zip(values, ids, strict=True) if math.isfinite(value)]
        if not finite:
            rows.append((name, kinds[name], MISSING, MISSING, MISSING, MISSING))
            continue
        worst, update = max(finite)
        mean = math.fsum(value for value, _ in finite) / len(finite)
        rows.append((name, kinds[name], mean_kl(mean), mean_kl(worst), str(update), mean_kl(finite[-1][0])))
    return table("KL by head, nats", ("head", "kind", "mean", "largest", "at update", "last"), rows, numbers=True)

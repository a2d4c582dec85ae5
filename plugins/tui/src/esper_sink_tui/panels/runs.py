"""The list of runs as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.health import format_kl
from esper_core.reading.glyphs import STATES, VERDICTS
from esper_core.reading.numbers import count, plain, rate
from esper_core.terminal import one_line
from esper_sink_tui.lines import frame, joined, line, pad, row

if TYPE_CHECKING:
    from esper_core.reading.model import RunRow, ScreenModel
    from esper_sink_tui.lines import Line

__all__ = ["run_cells", "runs_line", "runs_panel"]


def runs_panel(model: ScreenModel, width: int, height: int) -> list[Line]:
    """The runs around the one on show, newest first."""
    room = max(height - 3, 1)
    rows = model.runs
    place = next((index for index, item in enumerate(rows) if item.run_id == model.selected), 0)
    first = min(max(place - room + 1, 0), max(len(rows) - room, 0))
    name = max(width - 4 - 2 - 10 - 7 - 12 - 9 - 8, 8)
    head = row(("", 2), ("RUN", name), ("STATE", 10), ("UPD", -6), ("KL", -13), ("RETURN", -9), ("STEPS/S", -8))
    body = [line((head, "dim"))]
    body.extend(_row(item, model, name) for item in rows[first : first + room])
    hidden = len(rows) - room
    hint = f"r list, {hidden} more" if hidden > 0 else "r list"
    title = f"RUNS {len(rows)}" + (f" with {model.run_filter!r}" if model.run_filter else "")
    return frame(one_line(title), hint, body, width, height)


def _row(item: RunRow, model: ScreenModel, name: int) -> Line:
    state, sign = STATES[item.state], VERDICTS[item.kind]
    here = item.run_id == model.selected
    return line(
        ("▶ " if here else ("■ " if item.marked else "  "), "cursor" if here else "info"),
        (pad(one_line(item.label), name - 1) + " ", "cursor" if here else ""),
        (pad(f"{state.glyph} {state.word}", 10), state.role),
        pad(count(item.updates), 6, "right"),
        (f" {pad(f'{sign.glyph} {_kl(item)}', 12, 'right')}", sign.role),
        pad(plain(item.return_mean, 1), 9, "right"),
        pad(rate(item.steps_per_s), 8, "right"),
    )


def _kl(item: RunRow) -> str:
    """The judged KL; j marks the joint one."""
    return f"{'j ' if item.limits.on == 'joint' else ''}{format_kl(item.kl, limits=item.limits)}"


def run_cells(item: RunRow) -> tuple[str, ...]:
    """A run as the cells of a table: mark, run, state, verdict, updates, KL, return, steps/s, group."""
    state, sign = STATES[item.state], VERDICTS[item.kind]
    return (
        "■" if item.marked else " ",
        one_line(item.label),
        f"{state.glyph} {state.word}",
        f"{sign.glyph} {item.kind.value}",
        count(item.updates),
        _kl(item),
        plain(item.return_mean, 1),
        rate(item.steps_per_s),
        one_line(item.group),
    )


def runs_line(model: ScreenModel) -> Line:
    """All runs in one line: how many in which state."""
    parts: list[Line] = []
    for state, sign in STATES.items():
        number = sum(item.state is state for item in model.runs)
        if number:
            parts.append(line((f"{sign.glyph} {number} {sign.word}", sign.role)))
    return line(f" runs {len(model.runs)}: ", *joined(parts, (" ", "")))

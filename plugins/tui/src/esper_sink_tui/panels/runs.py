"""The list of runs as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from esper_core.health import classify_kl, format_kl
from esper_core.reading.glyphs import LEVELS, STATES, VERDICTS
from esper_core.reading.numbers import MISSING, age, count, moment, plain, rate
from esper_core.terminal import one_line
from esper_sink_tui.lines import frame, joined, line, pad, row
from esper_sink_tui.names import shown_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from esper_core.reading.glyphs import Role
    from esper_core.reading.model import RunRow, ScreenModel
    from esper_sink_tui.lines import Line, Span

__all__ = ["COLUMNS", "NUMBERS", "WIDEST_NAME", "columns_for", "run_at", "run_cells", "runs_line", "runs_panel"]

COLUMNS: Final = (
    " ",
    "run",
    "state",
    "verdict",
    "KL",
    "return",
    "updates",
    "age",
    "started",
    "steps/s",
    "ranks",
    "experiment",
)
NUMBERS: Final = frozenset({"KL", "return", "updates", "age", "steps/s", "ranks"})
"""Columns that are aligned to the right, so that figures stand below figures of their size."""
WIDEST_NAME: Final = 40
"""Cells of a name in the table at most."""
_NAMED: Final = "run"
_FAIR_NAME: Final = 18
"""Cells of a name that no other column takes from it."""
_AGE: Final = 6
"""Cells of an age: columns do not come and go with the seconds."""
_IF_ROOM: Final = ("return", "state", "updates", "age", "ranks", "experiment", "steps/s", "started")
"""Columns that a narrow table goes without, the most needed first."""


def runs_panel(model: ScreenModel, width: int, height: int) -> list[Line]:
    """The runs around the one on show, in the order of the list."""
    rows = model.runs
    first, room = _shown(model, height)
    name = max(width - 4 - 2 - 10 - 7 - 12 - 9 - 8, 8)
    head = row(("", 2), ("RUN", name), ("STATE", 10), ("UPD", -6), ("KL", -13), ("RETURN", -9), ("STEPS/S", -8))
    body = [line((head, "dim"))]
    shown = rows[first : first + room]
    names = shown_names(shown, name - 1)
    body.extend(_row(item, model, pad(names[item.run_id], name)) for item in shown)
    hidden = len(rows) - room
    hint = f"r list, {hidden} more" if hidden > 0 else "r list"
    title = f"RUNS {len(rows)}" + (f" with {model.run_filter!r}" if model.run_filter else "")
    return frame(one_line(title), hint, body, width, height)


def run_at(model: ScreenModel, height: int, y: int) -> str | None:
    """Id of the run in a line of the panel, which counts from 0 with the frame; None where there is none."""
    first, room = _shown(model, height)
    place = y - 2
    return model.runs[first + place].run_id if 0 <= place < min(room, len(model.runs) - first) else None


def _shown(model: ScreenModel, height: int) -> tuple[int, int]:
    """The first run that is shown, and for how many there is room."""
    room = max(height - 3, 1)
    place = next((index for index, item in enumerate(model.runs) if item.run_id == model.selected), 0)
    return min(max(place - room + 1, 0), max(len(model.runs) - room, 0)), room


def _row(item: RunRow, model: ScreenModel, name: str) -> Line:
    state, sign = STATES[item.state], VERDICTS[item.kind]
    here = item.run_id == model.selected
    kl = pad(_kl(item), min(cell_len(_kl(item)), 11))
    return line(
        _marks(item, here=here),
        (name, "cursor" if here else ""),
        (pad(f"{state.glyph} {state.word}", 10), state.role),
        pad(count(item.updates), 6, "right"),
        (pad(sign.glyph, 12 - cell_len(kl), "right"), sign.role),
        (f" {kl}", _own_role(item)),
        pad(plain(item.return_mean, 1), 9, "right"),
        pad(rate(item.steps_per_s), 8, "right"),
    )


def _own_role(item: RunRow) -> Role:
    """The colour of the KL itself: a run that crashed has the sign of that, and its KL may be calm."""
    role = LEVELS[classify_kl(item.kl, item.limits)].role
    return role if role in {"warn", "crit", "bad"} else ""


def _kl(item: RunRow) -> str:
    """The judged KL; j marks the joint one."""
    return f"{'j ' if item.limits.on == 'joint' else ''}{format_kl(item.kl, limits=item.limits)}"


def run_cells(item: RunRow, now_ns: int, *, name: str, here: bool = False) -> tuple[Span, ...]:
    """A run as the cells of a table, in the order of :data:`COLUMNS`.

    Args:
        item: the run.
        now_ns: unix time, nanoseconds.
        name: its name, cut to what has room.
        here: whether it is the run on the screen behind the table.
    """
    state, sign = STATES[item.state], VERDICTS[item.kind]
    begun = item.started_ns
    return (
        _marks(item, here=here),
        (name, "cursor" if here else ""),
        (f"{state.glyph} {state.word}", state.role),
        (f"{sign.glyph} {item.kind.value}", sign.role),
        (_kl(item), _own_role(item)),
        (plain(item.return_mean, 1), ""),
        (count(item.updates), ""),
        (age(max(now_ns - begun, 0) / 1e9) if begun is not None else MISSING, ""),
        (moment(begun, "%d %b %H:%M"), ""),
        (rate(item.steps_per_s), ""),
        (str(item.ranks), ""),
        (one_line(item.group), "dim"),
    )


def _marks(item: RunRow, *, here: bool) -> Span:
    return f"{'▶' if here else ' '}{'■' if item.marked else ' '}", "cursor" if here else "info"


def columns_for(rows: Iterable[Sequence[Span]], width: int) -> tuple[tuple[str, ...], int]:
    """The columns of a table that have room, in their order, and the cells that are left for a run's name.

    A column that is cut misleads, so it is left out.

    Args:
        rows: of :func:`run_cells`.
        width: of the table, in cells; each of its columns takes two more than its texts.
    """
    widths = {name: cell_len(name) for name in COLUMNS} | {"age": _AGE}
    several = False
    for cells in rows:
        found = dict(zip(COLUMNS, cells, strict=True))
        several = several or found["ranks"][0] != "1"
        widths = {name: max(widths[name], cell_len(found[name][0])) for name in COLUMNS}
    shown = set(COLUMNS) - set(_IF_ROOM)
    left = width - sum(widths[name] + 2 for name in shown) + widths[_NAMED]
    for name in _IF_ROOM:
        taken = widths[name] + 2
        if left - taken >= min(widths[_NAMED], _FAIR_NAME) and (name != "ranks" or several):
            shown.add(name)
            left -= taken
    return tuple(name for name in COLUMNS if name in shown), min(max(left, 1), WIDEST_NAME)


def runs_line(model: ScreenModel) -> Line:
    """All runs in one line: how many in which state."""
    parts: list[Line] = []
    for state, sign in STATES.items():
        number = sum(item.state is state for item in model.runs)
        if number:
            parts.append(line((f"{sign.glyph} {number} {sign.word}", sign.role)))
    return line(f" runs {len(model.runs)}: ", *joined(parts, (" ", "")))

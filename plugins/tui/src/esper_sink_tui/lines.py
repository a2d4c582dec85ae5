"""Lines of text with roles, of an exact width: panels return them, and widgets, ``--once`` and copying use them.

A line is a tuple of (text, role). Widths are terminal cells. Text from outside passes through
:func:`esper_core.terminal.one_line`, so that a run's name can neither move the cursor nor break a column.
"""

from __future__ import annotations

import re
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from rich.cells import cell_len, set_cell_size

from esper_core.reading.glyphs import Role, to_ascii

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "BLANK",
    "Line",
    "Span",
    "ascii_line",
    "fit",
    "fit_all",
    "frame",
    "joined",
    "line",
    "pad",
    "plain_text",
    "row",
    "width_of",
]

Span: TypeAlias = tuple[str, Role]
Line: TypeAlias = tuple[Span, ...]
BLANK: Final[Line] = ()
_ELLIPSIS: Final = "…"
_TWO_LETTERS: Final = re.compile("([≥≤])")
"""Signs whose ASCII forms are ``>=`` and ``<=``."""


def line(*parts: str | Span) -> Line:
    """Make a line of plain strings and (text, role) pairs; empty parts are left out."""
    spans: list[Span] = [(part, "") if isinstance(part, str) else part for part in parts]
    return tuple(span for span in spans if span[0])


def plain_text(of: Line) -> str:
    """The line's text without roles."""
    return "".join(text for text, _ in of)


def width_of(of: Line) -> int:
    """Terminal cells the line takes."""
    return sum(cell_len(text) for text, _ in of)


def pad(text: str, width: int, align: Literal["left", "right"] = "left") -> str:
    """The text in exactly ``width`` cells; a longer text is cut and ends with an ellipsis."""
    size = cell_len(text)
    if size > width:
        return set_cell_size(text, width - 1) + _ELLIPSIS if width > 0 else ""
    fill = " " * (width - size)
    return text + fill if align == "left" else fill + text


def fit(of: Line, width: int) -> Line:
    """The line in exactly ``width`` cells; a longer line is cut and ends with an ellipsis."""
    size = width_of(of)
    if size == width:
        return of
    if size < width:
        return (*of, (" " * (width - size), ""))
    kept: list[Span] = []
    room = width
    for text, role in of:
        size = cell_len(text)
        if size >= room:
            kept.append((pad(text + " ", room), role))
            break
        kept.append((text, role))
        room -= size
    return tuple(kept)


def fit_all(lines: Sequence[Line], width: int, height: int) -> list[Line]:
    """Exactly ``height`` lines of exactly ``width`` cells."""
    blank = ((" " * width, ""),) if width > 0 else BLANK
    fitted: list[Line] = [fit(item, width) for item in lines[:height]]
    return [*fitted, *([blank] * (height - len(fitted)))]


def frame(title: str, hint: str, body: Sequence[Line], width: int, height: int, *, focused: bool = False) -> list[Line]:
    """A titled box around a body, in exactly ``width`` x ``height`` cells; when that is too small, the body alone."""
    if width < 8 or height < 3:
        return fit_all(body, width, height)
    edge: Role = "cursor" if focused else "frame"
    room = width - 2
    head = f" {title} " if title else ""
    tail = f" {hint} " if hint else ""
    if cell_len(head) + cell_len(tail) + 4 > room:
        tail = ""
    head = pad(head, min(cell_len(head), max(room - 2, 0)))
    dashes = "─" * (room - 2 - cell_len(head) - cell_len(tail))
    top = line(("┌─", edge), (head, "title"), (dashes, edge), (tail, "dim"), ("─┐", edge))
    bottom = line((f"└{'─' * room}┘", edge))
    rows = fit_all(body, room - 2, height - 2)
    return [top, *(line(("│ ", edge), *row, (" │", edge)) for row in rows), bottom]


def ascii_line(of: Line) -> Line:
    """The line in ASCII, of the same width. Wide signs become two ``?``.

    ``>=`` and ``<=`` take two cells where their signs took one: the nearest run of spaces gives one up, that after the
    sign first. A line without such a run gives up a single space, or is cut at its end: ``>`` would be another limit.
    """
    if not any(_TWO_LETTERS.search(text) for text, _ in of):
        return tuple((_ascii_cells(text), role) for text, role in of)
    letters = [
        (letter, role)
        for text, role in of
        for part in _TWO_LETTERS.split(text)
        for letter in (part if _TWO_LETTERS.fullmatch(part) else _ascii_cells(part))
    ]
    for at, (letter, role) in enumerate(letters):
        if _TWO_LETTERS.fullmatch(letter):
            letters[at] = (to_ascii(letter) + "=", role)
            _take_space(letters, at)
    spelled = tuple(
        ("".join(letter for letter, _ in group), role) for role, group in groupby(letters, key=lambda item: item[1])
    )
    return tuple((_ascii_cells(text), role) for text, role in fit(spelled, width_of(of)))


def _take_space(letters: list[tuple[str, Role]], at: int) -> None:
    """Remove one of two neighbouring spaces, behind a place or else before it; without two the last single one."""
    left = [index for index, (letter, _) in enumerate(letters) if letter]
    pairs = [index for index, after in pairwise(left) if letters[index][0] == letters[after][0] == " "]
    single = [index for index in left if letters[index][0] == " "]
    if not single:
        return
    taken = next((index for index in pairs if index > at), pairs[-1]) if pairs else single[-1]
    letters[taken] = ("", letters[taken][1])


def _ascii_cells(text: str) -> str:
    if text.isascii():
        return text
    signs = "".join(to_ascii(sign) * cell_len(sign) for sign in text)
    return set_cell_size(signs, cell_len(text))  # a combined sign may take fewer cells than its parts


def row(*cells: tuple[str, int]) -> str:
    """Format a row of cells; a negative width aligns right."""
    return "".join(pad(text, abs(width), "right" if width < 0 else "left") for text, width in cells)


def joined(parts: Iterable[Line], separator: Span) -> Line:
    """Join non-empty lines with a separator between."""
    spans: list[Span] = []
    for part in parts:
        if part:
            spans.extend([separator, *part] if spans else part)
    return tuple(spans)

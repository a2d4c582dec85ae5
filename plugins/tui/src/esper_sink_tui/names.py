"""Names of runs in so many cells, cut so that runs which differ look different. Pure."""

from __future__ import annotations

from hashlib import sha256
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len

from esper_core.terminal import one_line
from esper_sink_tui.lines import pad

if TYPE_CHECKING:
    from collections.abc import Iterable

    from esper_core.reading.model import RunRow

__all__ = ["shown_names"]

_TAIL: Final = 7
"""Cells of a name's end that stay when it is cut: the dash and the six random characters of an id."""
_CUT: Final = "…"


def shown_names(rows: Iterable[RunRow], width: int) -> dict[str, str]:
    """The name of each run by its id, in at most ``width`` cells.

    Of a longer name the beginning and the end stay. Where that makes two runs look alike, what differs stays instead;
    runs of one name show that part of their ids, with the time in it.
    """
    known = {row.run_id: one_line(row.label) for row in rows}
    found: dict[str, str] = {}
    for alike in _alike({run_id: _cut(label, width) for run_id, label in known.items()}):
        if len(alike) == 1:
            found[alike[0]] = _cut(known[alike[0]], width)
            continue
        labels = [known[run_id] for run_id in alike]
        texts = labels if len(set(labels)) == len(labels) else [one_line(run_id) for run_id in alike]
        found |= _told_apart(dict(zip(alike, texts, strict=True)), width)
    still = (run_id for alike in _alike(found) if len(alike) > 1 for run_id in alike)
    return found | {run_id: _marked(run_id, known[run_id], width) for run_id in still}


def _alike(names: dict[str, str]) -> list[list[str]]:
    """Ids by the name that they share."""
    groups: dict[str, list[str]] = {}
    for run_id, name in names.items():
        groups.setdefault(name, []).append(run_id)
    return list(groups.values())


def _told_apart(texts: dict[str, str], width: int) -> dict[str, str]:
    """Texts cut where they begin to differ; those that still look alike are cut where these do."""
    if len(set(texts.values())) < len(texts):  # two ids that one_line makes the same
        return {run_id: _marked(run_id, text, width) for run_id, text in texts.items()}
    place = _same(texts.values())
    cut = {run_id: _cut_at(text, place, width) for run_id, text in texts.items()}
    found: dict[str, str] = {}
    for alike in _alike(cut):
        if len(alike) == 1:
            found[alike[0]] = cut[alike[0]]
        elif len(alike) < len(texts):
            found |= _told_apart({run_id: texts[run_id] for run_id in alike}, width)
        else:  # no room for one character that differs
            found |= {run_id: _marked(run_id, texts[run_id], width) for run_id in alike}
    return found


def _same(texts: Iterable[str]) -> int:
    """How many first characters texts have in common."""
    return sum(1 for _ in takewhile(lambda signs: len(set(signs)) == 1, zip(*texts, strict=False)))


def _cut(text: str, width: int) -> str:
    """The beginning and the end of a text."""
    if cell_len(text) <= width:
        return text
    if width < 2 * _TAIL:
        return pad(text, width)
    return pad(text, width - _TAIL) + _end(text, _TAIL)


def _end(text: str, cells: int) -> str:
    """The end of a text, as much as has room."""
    return next(
        (text[start:] for start in range(max(len(text) - cells, 0), len(text)) if cell_len(text[start:]) <= cells), ""
    )


def _cut_at(text: str, place: int, width: int) -> str:
    """The beginning of a text and, where that does not reach it, what begins at a character."""
    if place < width - 1 or width < _TAIL:
        return pad(text, width) if cell_len(text) > width else text
    head = width // 3
    start = max(min(place, len(text) - (width - head - 1)), head + 1)
    told = f"{text[:head]}{_CUT}{text[start:]}"
    return pad(told, width) if cell_len(told) > width else told


def _marked(run_id: str, text: str, width: int) -> str:
    """The beginning of a text, and a mark that is the run's own."""
    mark = sha256(run_id.encode(errors="backslashreplace")).hexdigest()[: min(_TAIL - 1, width)]
    room = width - len(mark)
    return (pad(text, room) if cell_len(text) > room else text) + mark

"""The screens that tell what a run is: its overview, and where the configurations of several differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len

from esper_core.reading import Run
from esper_core.reading.numbers import MISSING
from esper_core.reading.settings import setting_text, settings_apart
from esper_core.terminal import one_line
from esper_sink_tui.lines import pad

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esper_core.reading.overview import Section
    from esper_core.runs import RunDir

__all__ = ["differences", "differences_text", "overview_text"]

_WIDEST: Final = 44
"""Cells of a column that is not the last."""


def overview_text(sections: Sequence[Section]) -> str:
    """The overview as text: headings and aligned rows."""
    lines = []
    for section in sections:
        lines.append(section.title.upper())
        lines.extend(f"  {row}" for row in _aligned([[one_line(cell) for cell in row] for row in section.rows]))
        lines.append("")
    return "\n".join(lines).rstrip()


def differences(labels: Sequence[str], runs: Sequence[RunDir]) -> str:
    """Where the configurations of runs on disk differ, as text."""
    found, notes = settings_apart([Run(directory) for directory in runs])
    return differences_text(labels, found, notes)


def differences_text(labels: Sequence[str], differing: Mapping[str, tuple[Any, ...]], notes: Sequence[str] = ()) -> str:
    """Keys that differ, with the value in each run, under letters that stand for the runs."""
    letters = [chr(ord("a") + place) for place in range(len(labels))]
    lines = [f"{letter}  {one_line(label)}" for letter, label in zip(letters, labels, strict=True)]
    lines.append("")
    if differing:
        rows = [["key", *letters]]
        rows += [[one_line(key), *(_value(value) for value in values)] for key, values in differing.items()]
        lines += _aligned(rows)
    else:
        lines.append("their configurations are equal")
    return "\n".join([*lines, *(["", *map(one_line, notes)] if notes else [])])


def _value(value: Any) -> str:
    return MISSING if value is None else one_line(setting_text(value))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two cells apart; the last one is as long as its texts are."""
    if not rows:
        return []
    widths = [
        min(max(cell_len(row[place]) for row in rows), _WIDEST) for place in range(max(len(row) for row in rows) - 1)
    ]
    return ["  ".join([*map(_wide, row, widths), *row[len(widths) :]]).rstrip() for row in rows]


def _wide(cell: str, width: int) -> str:
    """In so many cells; a longer one stays whole, and its line alone is out of step."""
    return pad(cell, max(width, cell_len(cell)))

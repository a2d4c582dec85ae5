"""Formats rows of cells as lines with aligned columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["aligned"]


def aligned(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Format rows of cells as lines with aligned columns, two spaces apart.

    Args:
        rows: rows of equal length; the first is the heading.
        right: indices of the columns to align right (numbers).
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

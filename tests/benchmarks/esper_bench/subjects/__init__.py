"""The rows, one file a subject, in the order of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_bench.subjects import episodes, journal, kl, start, telemetry, training, update, viewer

if TYPE_CHECKING:
    from esper_bench.row import Row

__all__ = ["SUBJECTS", "find_row"]

SUBJECTS: Final[dict[str, tuple[Row, ...]]] = {
    "The update": update.ROWS,
    "Training, end to end": training.ROWS,
    "KL of one minibatch": kl.ROWS,
    "Telemetry of one update": telemetry.ROWS,
    "Episodes and bursts": episodes.ROWS,
    "Journal": journal.ROWS,
    "Viewer": viewer.ROWS,
    "Start": start.ROWS,
}
"""Title -> rows. The parties' processes are new for each subject."""


def find_row(name: str) -> Row:
    """The row of that name; raises KeyError without one."""
    for rows in SUBJECTS.values():
        for row in rows:
            if row.name == name:
                return row
    raise KeyError(name)

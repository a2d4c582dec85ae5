"""How far a long command is, on a terminal: one line that is written over and leaves nothing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, TypeVar

from esper_core.cli._output import note_over

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from esper_core.reading import Run
    from esper_core.reading.cells import Block

__all__ = ["counted", "followed"]

T = TypeVar("T")
_FIRST_S: Final = 1.0
_EVERY_S: Final = 0.25
_LOOK: Final = 50


def counted(
    items: Iterable[T], what: str, total: int | None = None, *, weight: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Pass items on; from the second second on say on stderr how many, when that is a terminal.

    Args:
        items: of any number.
        what: they are, in the plural.
        total: how many there will be, when that is known.
        weight: how many an item counts for.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield from items
        return
    of = f" of {total:,}" if total else ""
    due, shown = time.monotonic() + _FIRST_S, False
    count = looked = 0
    try:
        for item in items:
            yield item
            count += weight(item)
            if count - looked >= _LOOK:
                looked = count
                if time.monotonic() >= due:
                    due, shown = time.monotonic() + _EVERY_S, True
                    note_over(f"{count:,}{of} {what}")
    finally:
        if shown:
            note_over("")


def followed(run: Run, blocks: Iterator[Block]) -> Iterator[Block]:
    """Pass on the updates of a run that are read, saying as :func:`counted` how many have been."""
    record = run.record
    total = None if record is None else record.updates
    return counted(blocks, f"updates of {run.run_id} read", total, weight=lambda block: block.rows)

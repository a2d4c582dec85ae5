"""How far a long command is, on a terminal: one line that is written over and leaves nothing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, TypeVar

from esper_core.cli._output import note_over

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["counted"]

T = TypeVar("T")
_FIRST_S: Final = 1.0
_EVERY_S: Final = 0.25
_LOOK: Final = 50


def counted(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Pass items on; from the second second on say on stderr how many, when that is a terminal.

    Args:
        items: of any number.
        what: they are, in the plural.
        total: how many there will be, when that is known.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield from items
        return
    of = f" of {total:,}" if total else ""
    due, shown = time.monotonic() + _FIRST_S, False
    try:
        for place, item in enumerate(items, 1):
            yield item
            if place % _LOOK == 0 and time.monotonic() >= due:
                due, shown = time.monotonic() + _EVERY_S, True
                note_over(f"{place:,}{of} {what}")
    finally:
        if shown:
            note_over("")

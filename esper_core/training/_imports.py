"""Imports what training needs without the garbage collector, which finds nothing there."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["uncollected"]


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Hold the garbage collector back while modules are imported; it holds for every thread.

    torch's import makes some 150,000 objects that stay. The collector would walk them again and again as they grow:
    a tenth of the import's time. Afterwards they count as old, as objects that have survived collections do.
    """
    if not gc.isenabled() or gc.get_freeze_count():  # the process's owner has arrangements of his own
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what is alive is set aside ...
        gc.unfreeze()  # ... and comes back in the oldest generation
        gc.enable()

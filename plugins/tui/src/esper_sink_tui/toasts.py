"""How a worsening is told: one bell, and one toast where there is room."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal

from esper_core.reading.glyphs import VERDICTS
from esper_core.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esper_core.reading.alerts import Alert

__all__ = ["Severity", "Toasts"]

Severity = Literal["warning", "error"]
_REST_S: Final = 30.0


class Toasts:
    """One toast at a time, and twice a minute at most."""

    def __init__(self) -> None:
        self.next = float("-inf")
        """Monotonic seconds from which one may come."""

    def text(self, worse: Sequence[Alert]) -> tuple[str, Severity] | None:
        """What to show of some worsenings: the worst, and how many others; None when the last toast is too fresh."""
        now = time.monotonic()
        if not worse or now < self.next:
            return None
        self.next = now + _REST_S
        found = max(worse, key=lambda item: item.rank)
        sign = VERDICTS[found.now]
        more = f" and {len(worse) - 1} more" if len(worse) > 1 else ""
        severity: Severity = "error" if sign.role in {"crit", "bad"} else "warning"
        return f"{sign.glyph} {found.now.value}: {one_line(found.run)}{more}", severity

"""The screen with the changes of the verdict, of all runs: read from their journals, and seen by this viewer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from esper_core.reading.alerts import with_seen
from esper_core.reading.glyphs import VERDICTS
from esper_core.reading.numbers import moment
from esper_core.terminal import one_line
from esper_sink_tui.screens.page import Page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from textual.binding import BindingType

    from esper_core.reading.alerts import Alert, AlertBook
    from esper_sink_tui.watch import Watch

__all__ = ["AlertsScreen", "alert_lines"]

_MOST = 500
_REDRAWN_S = 0.5


def alert_lines(alerts: Iterable[Alert]) -> str:
    """The newest changes as text, newest first."""
    lines = []
    today = time.strftime("%d %b")
    for item in sorted(alerts, key=lambda item: item.time_ns, reverse=True)[:_MOST]:
        sign = VERDICTS[item.now]
        came = f" (was {item.before.value})" if item.before is not None else ""
        when = moment(item.time_ns, "%d %b %H:%M:%S").removeprefix(f"{today} ")
        where = f"{when}  {sign.glyph} {item.now.value}{came}"
        lines.append(f"{where}  {one_line(item.run)} update {item.update_id}\n          {one_line(item.reason)}")
    return "\n".join(lines) or "no verdict has changed"


class AlertsScreen(Page):
    """A scrolling list, which fills while journals are read.

    Args:
        watch: its runs are looked at.
        seen: what this viewer saw change; of it, what no journal tells is listed.
        book: what was read before.
        ascii_only: draw with ASCII signs.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,a", "dismiss", "close")]

    def __init__(self, watch: Watch, seen: Iterable[Alert], book: AlertBook, *, ascii_only: bool = False) -> None:
        super().__init__("Changes of the verdict, all runs (escape closes)", "reading ...", ascii_only=ascii_only)
        self._watch = watch
        self._seen = list(seen)
        self._found: list[Alert] = []
        self._book = book

    def on_mount(self) -> None:
        """Read in the background."""
        self.run_worker(self._read, thread=True, exclusive=True)

    def _read(self) -> None:
        drawn = time.monotonic()
        for label, told in self._watch.changes(self._book):
            if not self.is_attached:
                return
            self._found += with_seen(told, [item for item in self._seen if item.run == label])
            if time.monotonic() - drawn > _REDRAWN_S:
                drawn = time.monotonic()
                self.app.call_from_thread(self.show, alert_lines(self._found))
        self.app.call_from_thread(self.show, alert_lines(self._found))

"""Sanctum without a terminal: prints the screen once as text or JSON, or lines at intervals."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Final, TextIO

from esper_core.reading.document import document
from esper_core.reading.glyphs import VERDICTS
from esper_sink_tui.layout import screen_lines
from esper_sink_tui.lines import ascii_line, plain_text
from esper_sink_tui.panels.banner import state_line
from esper_sink_tui.panels.events import event_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_core.reading.model import ScreenModel
    from esper_core.reading.snapshot import EventEntry
    from esper_sink_tui.lines import Line
    from esper_sink_tui.watch import Watch

__all__ = ["follow_lines", "print_once", "read_all"]

_POLL_S: Final = 0.25
_ONCE_S: Final = 30.0


def read_all(watch: Watch, *, timeout_s: float = _ONCE_S) -> None:
    """Read what is on disk now; stop after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while watch.tick() and time.monotonic() < deadline:
        pass


def print_once(
    watch: Watch, *, as_json: bool, width: int, height: int, ascii_only: bool, out: TextIO | None = None
) -> int:
    """Print the screen once.

    Returns:
        The verdict's exit code: 0 healthy, 1 warning, 2 critical, non-finite or crashed, 3 unknown or stale.
    """
    out = sys.stdout if out is None else out
    read_all(watch)
    model = watch.model()
    if as_json:
        print(json.dumps(document(model), indent=2), file=out)
    else:
        for item in screen_lines(model, width, height, ascii_only=ascii_only):
            print(plain_text(item).rstrip(), file=out)
    return model.verdict.exit_code


def follow_lines(
    watch: Watch,
    *,
    interval_s: float,
    ascii_only: bool,
    out: TextIO | None = None,
    ended: Callable[[], bool] | None = None,
) -> int:
    """Print lines until the run ends: every notable event at once, and the state of the run at intervals.

    Args:
        watch: the runs; the selected one is followed.
        interval_s: seconds between two lines of state.
        ascii_only: ASCII signs.
        out: the stream to print to; stdout by default.
        ended: returns True when no more events can come; without it the run's own state decides.

    Returns:
        The last verdict's exit code.
    """
    out = sys.stdout if out is None else out
    due = 0.0
    told: EventEntry | None = None
    first = True
    while True:
        done = ended() if ended is not None else False
        read_all(watch)
        model = watch.model()
        entries = list(model.snapshot.events)
        fresh = entries[entries.index(told) + 1 :] if told in entries else entries
        told = entries[-1] if entries else told
        for entry in () if first else fresh:
            if entry.tone != "info" or entry.source == "run":
                _say(event_line(entry), out, ascii_only=ascii_only)
        first = False
        over = done or model.life.state.ended
        if time.monotonic() >= due or over:
            due = time.monotonic() + interval_s
            _say(_state_line(model), out, ascii_only=ascii_only)
        if over:
            return model.verdict.exit_code
        time.sleep(_POLL_S)


def _say(text: Line, out: TextIO, *, ascii_only: bool) -> None:
    print(plain_text(ascii_line(text) if ascii_only else text).rstrip(), file=out, flush=True)


def _state_line(model: ScreenModel) -> Line:
    sign = VERDICTS[model.verdict.kind]
    return ((f"{time.strftime('%H:%M:%S')} {sign.glyph} ", sign.role), *state_line(model))

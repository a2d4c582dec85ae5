"""The sinks as text: state, queue, losses and lag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from esper_core.health import RunState
from esper_core.reading.numbers import MISSING, count, duration
from esper_core.terminal import one_line
from esper_sink_tui.lines import frame, line, pad, row

if TYPE_CHECKING:
    from esper_core.reading.account import SinkAccount
    from esper_core.reading.glyphs import Role
    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.lines import Line, Span

__all__ = ["sinks_line", "sinks_panel"]

_WIDE: Final = 52

_SIGNS: Final[dict[str, tuple[str, Role]]] = {
    "ok": ("● ok", "ok"),
    "recovered": ("● ok again", "ok"),
    "closed": ("✔ closed", "info"),
    "failing": ("▲ failing", "warn"),
    "disabled": ("✖ disabled", "crit"),
    "cut_off": ("✖ cut off", "crit"),
}

_UNHEARD: Final = frozenset({RunState.CRASHED, RunState.STALE})
"""States in which nobody tells of the sinks any more: what is known is what was told last."""


def sinks_panel(model: ScreenModel, width: int, height: int) -> list[Line]:
    """State, queue, losses and lag of each sink; failing ones first when not all fit."""
    room = max(height - 3, 1)
    wide = width >= _WIDE
    name = width - 4 - (12 + 11 + 9 + 8 if wide else 12 + 7)
    head = row(("SINK", name), ("STATE", 12), *((("QUEUE", -11),) if wide else ()), ("LOST", -9 if wide else -7))
    head += pad("LAG", 8, "right") if wide else ""
    sinks = sorted(model.sinks, key=lambda item: (not item.troubled, item.name))
    gone = model.life.state in _UNHEARD
    body = [line((head, "dim")), *(_row(item, name, wide=wide, gone=gone) for item in sinks[:room])]
    if not sinks:
        body.append(line(("the run has told of none yet", "dim")))
    unread = f", {count(model.corrupt)} unread" if model.corrupt else ""
    return frame("SINKS", f"{len(sinks)} on{unread}" if sinks or unread else "", body, width, height)


def _row(item: SinkAccount, name: int, *, wide: bool, gone: bool) -> Line:
    text, role = _sign(item, gone=gone)
    queue = MISSING if not item.capacity else f"{item.queued or 0}/{item.capacity}"
    lag = MISSING if item.lag_s is None else duration(item.lag_s)
    lost: Span = (pad(count(item.lost), 9 if wide else 7, "right"), "warn" if item.lost else "")
    start = (pad(one_line(item.name), name - 1) + " ", (pad(text, 12), role))
    if not wide:
        return line(*start, lost)
    return line(*start, pad(queue, 11, "right"), lost, pad(lag, 8, "right"))


def _sign(item: SinkAccount, *, gone: bool) -> tuple[str, Role]:
    text, role = _SIGNS[item.state]
    if gone and item.state in {"ok", "recovered"} and not item.lost:
        return "… was ok", "dim"
    return ("▲ lossy", "warn") if role in {"ok", "info"} and item.lost else (text, role)


def sinks_line(model: ScreenModel) -> Line:
    """All sinks in one line; failing ones by name."""
    troubled = [item for item in model.sinks if item.troubled]
    if not troubled:
        calm: Span = ("… were ok", "dim") if model.life.state in _UNHEARD else ("● ok", "ok")
        sign: Span = calm if model.sinks else ("—", "dim")
        return line(f" sinks {len(model.sinks)} ", sign)
    worst = troubled[0]
    text, role = _sign(worst, gone=False)
    queue = f" queue {worst.queued}/{worst.capacity}" if worst.capacity else ""
    more = f" and {len(troubled) - 1} more" if len(troubled) > 1 else ""
    return line(" sinks ", (f"{text[0]} {one_line(worst.name)} {text[2:]} lost {count(worst.lost)}{queue}{more}", role))

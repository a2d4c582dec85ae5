"""StatusBanner as text: the verdict first, then the reason and the next step, then the early stop; four lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.health import format_kl, level_under
from esper_core.kl import STOP_FACTOR
from esper_core.reading.glyphs import BADGES, LEVELS, STATES, STOP, VERDICTS
from esper_core.reading.numbers import age, count, duration, percent, rate
from esper_core.reading.rows import PANEL_DIGITS, limit_text
from esper_core.reading.sentences import early_stop_text
from esper_core.reading.tamiyo import HISTORY
from esper_core.reading.trend import arrow, trend
from esper_core.terminal import one_line
from esper_sink_tui.lines import fit, joined, line, pad, width_of

if TYPE_CHECKING:
    from esper_core.reading.glyphs import Role
    from esper_core.reading.model import ScreenModel
    from esper_core.reading.tamiyo import TamiyoState
    from esper_sink_tui.lines import Line, Span

__all__ = ["banner", "banner_line", "state_line"]

_ROOMY = 116
"""Columns from which the first line has room between its parts."""
_NARROW = 56
_KL_WIDTH = len("KL 0.014996")


def banner(model: ScreenModel, width: int, height: int) -> list[Line]:
    """Verdict, KL, trend, limits, run state and age; why; what next; the early stop and its limit."""
    said = _named(model, [_why_line(model), _next_line(model), _stop_line(model, width)], width)
    lines = [_verdict_line(model, width), *said]
    return [fit(item, width) for item in lines[:height]] + [fit((), width)] * (height - len(lines))


def banner_line(model: ScreenModel, width: int) -> Line:
    """The banner of a terminal too small for anything else."""
    tamiyo = model.snapshot.tamiyo
    when = _short_age(model.age_s if model.ended_s is None else model.ended_s)
    when = f"age {when}" if model.ended_s is None else f"{when} ago"
    parts = [
        line(_badge(model, _label_of(model, short=True))),
        line((f" {_kl(tamiyo)}", _kl_role(model)), arrow(tamiyo.judged_kl_history)),
        line((f" ‖ {model.frozen.update_id}", "frozen") if model.frozen is not None else (f" {when}", "dim")),
    ]
    # The KL is there whatever has no room; half an age would be none.
    if width_of(joined(parts, ("", ""))) > width:
        parts.pop()
    return fit(tuple(span for part in parts for span in part), width)


def _badge(model: ScreenModel, label: str) -> Span:
    """The verdict as a filled field: sign and word, in the role's colour reversed."""
    sign = VERDICTS[model.verdict.kind]
    return f"{sign.glyph} {label}", BADGES[sign.role]


def _label_of(model: ScreenModel, *, short: bool) -> str:
    label = model.verdict.label.upper()
    return label.replace(" (WARM-UP)", " ◌") if short else label


def _kl_role(model: ScreenModel) -> Role:
    """The newest KL in the colour of its own level, whatever the verdict on the last three is."""
    last = model.snapshot.last
    if last is None:
        return ""
    role = LEVELS[level_under(last, model.snapshot.tamiyo.limits)].role
    return role if role in {"warn", "crit", "bad"} else "title"


def state_line(model: ScreenModel) -> Line:
    """Verdict, KL and state of the run in one line of any length, for logs."""
    tamiyo = model.snapshot.tamiyo
    direction = trend(tamiyo.judged_kl_history)
    limits = tamiyo.limits
    parts = [
        line(model.verdict.label.upper()),
        line(f"{limits.name} {format_kl(tamiyo.judged_kl, limits=limits)}", f" {direction}" if direction else ""),
        line(_progress_text(model)),
        line(f"stopped {model.snapshot.stopped_recently} of last {len(tamiyo.early_stops)}"),
        line(f"{rate(tamiyo.steps_per_s)} steps/s"),
        line(f"ETA {duration(model.progress.eta_s)}"),
        _state(model),
        line(one_line(model.why)),
    ]
    return joined(parts, ("  ", ""))


def _verdict_line(model: ScreenModel, width: int) -> Line:
    """The first line: always verdict, KL and the age of the data; limits, progress and ETA when there is room."""
    if width < _NARROW:
        return banner_line(model, width)
    wide = width >= _ROOMY
    room = 17 if wide else 10
    label = _label_of(model, short=not wide)
    tamiyo = model.snapshot.tamiyo
    direction = trend(tamiyo.judged_kl_history)
    badge, role = _badge(model, label)
    head = line(
        (f" {badge} ", role),
        pad("", room - len(label)),
        (f"{_kl(tamiyo):<{_KL_WIDTH}}", _kl_role(model)),
        f" {arrow(tamiyo.judged_kl_history)} ",
        pad(direction, 7) if wide else "",
    )
    warning, critical = limit_text(tamiyo.limits.warning), limit_text(tamiyo.limits.critical)
    limits = f"warn ≥ {warning} crit ≥ {critical}" if wide else f"warn≥{warning} crit≥{critical}"
    separator: Span = (" │ ", "frame") if wide else (" ", "")
    end = _state(model)
    parts = [
        head,
        line((limits, "dim")),
        line(_progress_text(model)),
        line(f"ETA {duration(model.progress.eta_s):<6}"),
        end,
    ]
    # How far the run is comes before its limits, which the panel below has too.
    kept = {0, len(parts) - 1}
    for place in (2, 1, 3):
        if width_of(joined([parts[item] for item in sorted({*kept, place})], separator)) > width:
            break
        kept.add(place)
    return joined([parts[item] for item in sorted(kept)], separator)


def _kl(tamiyo: TamiyoState) -> str:
    """The judged KL with its name, as the panel shows it."""
    return f"{tamiyo.limits.name} {format_kl(tamiyo.judged_kl, digits=PANEL_DIGITS, limits=tamiyo.limits)}"


def _state(model: ScreenModel) -> Line:
    """Run state and the age of the data: always there."""
    state = STATES[model.life.state]
    if model.frozen is not None:
        behind = f"{count(model.frozen.behind)} behind" if model.frozen.behind else "at the newest"
        # The level is that update's own; how the run ended stands beside it.
        end: Span = (f" {state.glyph} {state.word.upper()}", state.role) if model.life.state.ended else ("", "")
        return line((f"‖ frozen at {model.frozen.update_id}, {behind}", "frozen"), end)
    return line((f"{state.glyph} {state.word.upper()}", state.role), (f" {_age_text(model)}", "dim"))


def _age_text(model: ScreenModel) -> str:
    if model.ended_s is not None:
        # After a minute, seconds do not matter; a text that does not change is not drawn again.
        return f"{age(model.ended_s) if model.ended_s < 60 else duration(model.ended_s // 60 * 60)} ago"
    return f"age {_short_age(model.age_s):<4}"


def _short_age(seconds: float | None) -> str:
    """An age of at most four cells, so that nothing beside it comes or goes as it grows: from a minute on one unit."""
    if seconds is None or seconds < 60:
        return age(seconds)
    units = ((86400, "d"), (3600, "h"), (60, "m"))
    return next(f"{min(int(seconds // size), 999)}{unit}" for size, unit in units if seconds >= size)


def _progress_text(model: ScreenModel) -> str:
    done = model.progress
    if done.planned is None:
        return f"{done.unit} {count(done.done)}"
    return f"{done.unit} {count(done.done)}/{count(done.planned)} {percent(done.fraction, 0)}"


def _why_line(model: ScreenModel) -> Line:
    sign = VERDICTS[model.verdict.kind]
    return line((" why:  ", "dim"), (one_line(model.why), sign.role if sign.role != "ok" else ""))


def _named(model: ScreenModel, lines: list[Line], width: int) -> list[Line]:
    """The run's name at the right of the first of the lines that has room for it."""
    label = f"run {_label(model)}"
    for place, item in enumerate(lines):
        used = width_of(item)
        if used + len(label) + 4 <= width:
            named: Line = (*item, (pad(label, width - used - 1, "right"), "dim"), (" ", ""))
            return [*lines[:place], named, *lines[place + 1 :]]
    return lines


def _next_line(model: ScreenModel) -> Line:
    """What to do next, or a message of the viewer."""
    if model.notice:
        return line((" note: ", "dim"), (one_line(model.notice), "info"))
    if model.advice is None:
        return line((" next: ", "dim"), ("nothing to do", "dim"))
    return line((" next: ", "dim"), one_line(str(model.advice)))


def _label(model: ScreenModel) -> str:
    return one_line(model.label or "none yet")


def _stop_line(model: ScreenModel, width: int) -> Line:
    """The early stop of the last update, else the number of early stops in the last ten; and the limit in force.

    Of a run that failed or crashed the last line of its log instead.
    """
    snapshot, tamiyo = model.snapshot, model.snapshot.tamiyo
    if model.life.last_words and (model.frozen is None or not model.frozen.behind):
        return line((" log:  ", "dim"), one_line(model.life.last_words[-1]))
    stopped = snapshot.stopped_recently
    seen = len(tamiyo.early_stops)
    counted = f"{STOP if stopped else ' '} stopped {stopped} of last {seen or HISTORY}"
    if snapshot.last is not None and snapshot.last.early_stop is not None:
        long = one_line(early_stop_text(snapshot.last, limits=tamiyo.limits))
        short = one_line(early_stop_text(snapshot.last, short=True, limits=tamiyo.limits))
        found = line((f" {counted}: ", "stop"), f"update {snapshot.updates} {long}")
        return found if width_of(found) <= width else line((f" {counted}: ", "stop"), short)
    role: Role = "stop" if stopped else "dim"
    return line((f" {counted}", role), (f"; {_limit_text(model)}", "dim"))


def _limit_text(model: ScreenModel) -> str:
    """The stop threshold as text, from the last update or from the run's start."""
    last, plan = model.snapshot.last, model.snapshot.plan
    threshold = last.stop_threshold if last is not None else plan.stop_threshold
    target = last.target_kl if last is not None else plan.target_kl
    on = last.stop_on if last is not None else plan.stop_on
    if threshold is None or target is None or not target:
        if model.life.journal.absent:
            return "its limit is in no journal"
        if plan.started_ns is not None or target == 0:
            return "early stop is off (target_kl = 0)"
        return "no limit of early stopping was told" if last is not None else "no run yet"
    # As many digits as they have: four decimals would show a small one as 0.
    return f"stops if {on} KL > {limit_text(threshold)} ({STOP_FACTOR} x target_kl {limit_text(target)})"

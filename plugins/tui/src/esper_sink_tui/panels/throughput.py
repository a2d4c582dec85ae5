"""Throughput and progress as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esper_core.health import WARM_UP_UPDATES
from esper_core.reading.numbers import count, duration, percent, plain, rate
from esper_core.reading.returns import return_to_show
from esper_core.reading.system import system_text
from esper_core.reading.tamiyo import HISTORY
from esper_core.reading.trend import arrow
from esper_core.terminal import one_line
from esper_sink_tui.lines import fit, frame, line, pad
from esper_sink_tui.spark import spark

if TYPE_CHECKING:
    from esper_core.events import PPOUpdatePayload
    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.lines import Line

__all__ = ["throughput_line", "throughput_panel"]


def throughput_panel(model: ScreenModel, width: int, height: int) -> list[Line]:
    """Steps per second, the parts of the time, the progress of the run and its estimated end."""
    state, last = model.snapshot.tamiyo, model.snapshot.last
    history = [value for value in state.steps_per_s_history if value is not None]
    top = 1.25 * _range(history)[1]
    returns = [return_to_show(item) for item in model.snapshot.recent[-HISTORY:]]
    return_history = [value for value in returns if value is not None]
    body = [
        line(
            pad("env steps/s", 13),
            pad(rate(state.steps_per_s), 10, "right"),
            "  ",
            (spark(state.steps_per_s_history, 0.0, top), "dim"),
            f" {arrow(state.steps_per_s_history, dead_band=0.0)}",
        ),
        line(pad("update", 13), pad(duration(_total(last)), 10, "right"), "  ", (_split(last), "dim")),
        line(
            pad("return", 13),
            pad(plain(return_to_show(last), 1), 10, "right"),
            "  ",
            (spark(returns, *_range(return_history)), "dim"),
            f" {arrow(returns, dead_band=0.0)}",
        ),
        _progress(model, width - 4),
        line(pad("to go", 13), pad(duration(model.progress.eta_s), 10, "right"), "  ", (_warm_up(model), "dim")),
        line((_place(model, last), "dim")),
    ]
    return frame("THROUGHPUT", "", body, width, height)


def _range(values: list[float]) -> tuple[float, float]:
    """The return's sparkline: returns have neither limits nor a fixed scale, so its range is that of the last ten."""
    finite = [value for value in values if math.isfinite(value)]
    return min(finite, default=0.0), max(finite, default=1.0)


def throughput_line(model: ScreenModel, width: int) -> Line:
    """The same for the compact layout."""
    state, last = model.snapshot.tamiyo, model.snapshot.last
    eta = duration(model.progress.eta_s)
    return fit(
        line(
            f" {rate(state.steps_per_s)} steps/s {arrow(state.steps_per_s_history, dead_band=0.0)}",
            f"  update {duration(_total(last))} ",
            (_split(last), "dim"),
            f"  return {plain(return_to_show(last), 1)}  ETA {eta}",
        ),
        width,
    )


def _total(last: PPOUpdatePayload | None) -> float | None:
    if last is None or last.update_s is None:
        return None
    return last.update_s + (last.rollout_s or 0.0)


def _split(last: PPOUpdatePayload | None) -> str:
    total = _total(last)
    if last is None or last.rollout_s is None or not total:
        return ""
    share = last.rollout_s / total
    return f"(rollout {percent(share, 0)} learn {percent(1 - share, 0)})"


def _device(last: PPOUpdatePayload | None, *, told: bool) -> str:
    """The device of the last update; of a sender that told of no start it is not known."""
    if last is None or not told:
        return ""
    return f"on {one_line(last.device)}"


def _place(model: ScreenModel, last: PPOUpdatePayload | None) -> str:
    """Where it trains, and what it takes of the machine while it runs."""
    taken = system_text(model.life.system) if not model.life.state.ended else ""
    plan = model.snapshot.plan
    ranks = f"{plan.ranks} ranks" if plan.ranks > 1 else ""
    device = _device(last, told=plan.started_ns is not None)
    return "  ".join(part for part in (one_line(plan.environment), device, ranks, taken) if part)


def _warm_up(model: ScreenModel) -> str:
    if model.life.state.ended:
        return f"ended: {model.life.state.value}"
    done = min(model.snapshot.updates, WARM_UP_UPDATES)
    return f"warm-up {'done' if model.snapshot.updates > WARM_UP_UPDATES else f'{done}/{WARM_UP_UPDATES}'}"


def _progress(model: ScreenModel, room: int) -> Line:
    done = model.progress
    if done.planned is None or done.fraction is None:
        return line(pad("progress", 13), f"{done.unit} {count(done.done)}", ("  no limit planned", "dim"))
    tail = f" {count(done.done)}/{count(done.planned)} {done.unit}"
    size = max(room - 13 - len(tail), 4)
    full = round(done.fraction * size)
    return line(pad("progress", 13), ("█" * full, "info"), ("░" * (size - full), "dim"), tail)

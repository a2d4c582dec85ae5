"""The plot of ``esper compare``: return and judged KL over environment steps, each group a line with its band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from esper_core.reading.series import bands

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esper_core.reading.compare import ComparedRun, Comparison

__all__ = ["draw"]

# Okabe and Ito's colours, distinct for colour-blind eyes, and a dash of its own for each (jfly.uni-koeln.de/color).
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES: Final = ("-", "--", "-.", ":")


def draw(found: Comparison, path: Path) -> None:
    """Write the plot in the format that the file's name ends in."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    _curves(upper, found, lambda run: run.returns)
    _curves(lower, found, lambda run: run.kl)
    upper.set_ylabel("return, mean of 100 episodes")
    on = {run.kl_on for group in found.groups for run in group.runs}
    lower.set_ylabel("joint KL, nats" if on == {"joint"} else "KL, nats" if on == {"weighted"} else "judged KL, nats")
    lower.set_xlabel("environment steps")
    upper.legend(loc="best", frameon=False)
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _curves(axes: Any, found: Comparison, of: Callable[[ComparedRun], tuple[float, ...]]) -> None:
    drawn = bands((group.name, run.env_steps, of(run)) for group in found.groups for run in group.runs)
    places = {group.name: place for place, group in enumerate(found.groups)}
    for band in drawn:
        place = places[band.label]
        colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
        seeds = f"{band.label} ({band.seeds} seed{'s' if band.seeds > 1 else ''})"
        axes.plot(band.updates, band.mean, color=colour, linestyle=dash, label=seeds)
        if band.seeds > 1:
            axes.fill_between(band.updates, band.low, band.high, color=colour, alpha=0.18, linewidth=0)

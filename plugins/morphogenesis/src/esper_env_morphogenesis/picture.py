"""One episode as a picture: ``esper eval RUN --plot FILE.png``. Needs matplotlib (extra ``plot``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from esper_core.errors import UsageError
from esper_env_morphogenesis.blueprints import BLUEPRINTS
from esper_env_morphogenesis.host import SLOTS
from esper_env_morphogenesis.lifecycle import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from esper_env_morphogenesis.story import Episode

__all__ = ["draw"]

_COLOURS: Final = {
    Stage.TRAINING: "#f2c14e",
    Stage.BLENDING: "#5fad56",
    Stage.HOLDING: "#4d9078",
    Stage.FOSSILIZED: "#7a6c5d",
    Stage.PRUNED: "#d9d9d9",
}


def draw(episode: Episode, path: Path) -> None:
    """Draw slot timelines over accuracy.

    Args:
        episode: the episode.
        path: the picture's file; its suffix selects the format, and its folder must exist.

    Raises:
        UsageError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra, and slow to import
        from matplotlib.figure import Figure  # noqa: PLC0415 - as above
        from matplotlib.patches import Patch  # noqa: PLC0415 - as above
    except ImportError as error:
        raise UsageError("--plot needs matplotlib", hint="pip install 'esper-env-morphogenesis[plot]'") from error

    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.4))
    _timelines(upper, episode)
    upper.legend(
        handles=[Patch(color=colour, label=stage.name.lower()) for stage, colour in _COLOURS.items()],
        ncols=len(_COLOURS),
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
        fontsize="small",
    )
    epochs = [moment.epoch + 1 for moment in episode.moments]
    lower.plot(
        [0, *epochs], [100 * episode.start, *(100 * moment.accuracy for moment in episode.moments)], color="#222"
    )
    for when, block in episode.world.lesions:
        lower.axvline(when, color="#c0392b", linestyle=":")
        lower.annotate(f"block {block} dies", (when, 0), xytext=(4, 4), textcoords="offset points", color="#c0392b")
    lower.set(xlabel="host epoch", ylabel="validation accuracy, %", ylim=(0, None), xlim=(0, epochs[-1]))
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot write {path}: {error}", hint="a folder that exists, and an ending such as .png"
        ) from error


def _timelines(axes: Any, episode: Episode) -> None:
    """Draw one row per slot, with a bar for every epoch in which it has a module; the bar's height is alpha."""
    for slot in range(SLOTS):
        named = -1
        for moment in episode.moments:
            state = moment.slots[slot]
            colour = _COLOURS.get(state.stage)
            if colour is None:
                named = -1
                continue
            height = 0.25 + 0.55 * state.alpha
            axes.bar(moment.epoch + 0.5, height, width=1.0, bottom=slot - 0.4, color=colour)
            if state.living and state.blueprint != named:
                axes.text(moment.epoch + 0.2, slot - 0.32, BLUEPRINTS[state.blueprint].name, fontsize="small")
            named = state.blueprint
    axes.set(yticks=range(SLOTS), yticklabels=[f"slot {slot}" for slot in range(SLOTS)], ylim=(-0.6, SLOTS - 0.4))

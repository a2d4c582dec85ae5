"""Sanctum through Textual's Pilot: the app over a watch, and what its terminal shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper_sink_tui.app import SanctumApp
from esper_sink_tui.layout import screen_lines
from esper_sink_tui.lines import plain_text

if TYPE_CHECKING:
    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.watch import Watch

__all__ = ["WIDE", "app_over", "on_screen", "settled", "text_of"]


WIDE = (120, 36)


def app_over(watch: Watch, **options: Any) -> SanctumApp:
    return SanctumApp(watch, feed=False, **options)


async def settled(pilot: Any, app: SanctumApp) -> None:
    """Everything asked for so far is on the screen."""
    await pilot.pause()
    app.draw()
    await pilot.pause()


def on_screen(app: SanctumApp) -> str:
    """What the terminal shows, widget by widget as the compositor has it."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def text_of(model: ScreenModel, width: int = 120, height: int = 35, **options: Any) -> str:
    """What the panels of a model show, without an app."""
    return "\n".join(plain_text(item) for item in screen_lines(model, width, height, **options))

"""SanctumApp: draws the model of a watch and handles keys. It reads no files and computes no levels itself."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from textual.app import SystemCommand
from textual.binding import Binding
from textual.css.query import NoMatches
from textual.events import InputEvent
from textual.widgets import Footer

from esper_sink_tui.feeder import TICK_S, Feeder
from esper_sink_tui.keys import KEYS, shown
from esper_sink_tui.layout import Cell, has_divergences, layout, mode_of
from esper_sink_tui.opening import Opening
from esper_sink_tui.panels.runs import run_at
from esper_sink_tui.quiet import QuietCollector
from esper_sink_tui.theme import THEMES, role_defaults
from esper_sink_tui.toasts import Toasts
from esper_sink_tui.widgets import PANEL_WIDGETS, TextPanel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from textual.app import ComposeResult
    from textual.events import Click, Event, Resize
    from textual.geometry import Size
    from textual.screen import Screen

    from esper_sink_tui.watch import Watch

__all__ = ["SanctumApp"]

_DEFAULT_THEME: Final = "esper"
_EVERYWHERE: Final = {"help", "next_theme", "command_palette"}
_OWN_ACTIONS: Final = {key.action.partition("(")[0] for key in KEYS} - _EVERYWHERE
"""What keys do on the main screen alone."""


class SanctumApp(Opening):
    """The viewer.

    Args:
        watch: the runs; a feeder reads it unless ``feed`` is off.
        ascii_only: draw with ASCII signs and without the plot widget.
        bell: ring when the verdict gets worse.
        theme: a theme's name; NO_COLOR takes precedence.
        request_stop: asks the trainer of a run to stop; returns what it did, or why it could not.
        export_dir: the folder for exports.
        greeting: shown for a moment at the start.
        feed: read in the background; False in tests, which call ``tick`` of the watch themselves.
        clock: seconds, for the age of the data.
    """

    TITLE = "Sanctum"
    ENABLE_COMMAND_PALETTE = True
    CSS = """
    Footer { background: $background; }
    .-ascii Toast { border: ascii $role-cursor; }
    .-ascii Input { border: ascii $role-cursor; }
    .-ascii ModalScreen > Vertical { border: ascii $role-cursor; }
    .-ascii ModalScreen > VerticalScroll { border: ascii $role-cursor; }
    .-theme-esper-mono DataTable > .datatable--header { background: ansi_default; }
    """
    BINDINGS: ClassVar[list[Any]] = [
        Binding(key.key, key.action, key.footer or key.text, show=bool(key.footer), key_display=shown(key))
        for key in KEYS
    ]

    def __init__(
        self,
        watch: Watch,
        *,
        ascii_only: bool = False,
        bell: bool = False,
        theme: str = _DEFAULT_THEME,
        request_stop: Callable[[str], str] | None = None,
        export_dir: Path | None = None,
        greeting: str = "",
        feed: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # For NO_COLOR Textual itself uses a filter that makes greys and fails on some segments (8.2.8); a theme without
        # colours needs no filter.
        self._colourless = bool(os.environ.pop("NO_COLOR", ""))
        super().__init__(watch, ascii_only=ascii_only, export_dir=export_dir, request_stop=request_stop)
        self._toasts = Toasts()
        self._bell = bell
        self._wanted_theme = theme
        self._greeting = greeting
        self._feeder = Feeder(watch) if feed else None
        self._clock = clock
        self._quiet = QuietCollector()
        self._zoomed = ""
        self._diverges = False
        self._seen: tuple[int, int, bool] = (-1, -1, False)
        for item in THEMES:
            self.register_theme(item)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Role colours for themes that define none."""
        return role_defaults(dark=self.current_theme.dark)

    def get_key_display(self, binding: Binding) -> str:
        """How the footer writes a key: by its name where ASCII has no sign for it."""
        text = super().get_key_display(binding)
        return binding.key if self.ascii_only and not text.isascii() else text

    # --- start and refresh --------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Every text panel, in the order of the tab key, and the footer."""
        for widget in PANEL_WIDGETS.values():
            yield widget(ascii_only=self.ascii_only)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Start reading and drawing."""
        self.theme = "esper-mono" if self._colourless else self._wanted_theme
        if self._feeder is not None:
            self._feeder.start()
        self._quiet.start()
        self._arrange()
        if self._greeting:
            self.notify(self._greeting, markup=False)
        self.set_interval(TICK_S, self.tick)

    def on_unmount(self) -> None:
        """Stop reading."""
        self._quiet.stop()
        if self._feeder is not None:
            self._feeder.close()

    async def on_event(self, event: Event) -> None:
        """Note that the viewer is used."""
        if isinstance(event, InputEvent):
            self._quiet.used()
        await super().on_event(event)

    def on_resize(self, event: Resize) -> None:
        """Lay out the screen for the new size. Textual sets the app's own size only after this call."""
        self._arrange(event.size)

    def tick(self) -> None:
        """Draw when anything changed, and once a second, because the age of the data changes with time."""
        if self._feeder is not None and self._feeder.error is not None:
            error, self._feeder.error = self._feeder.error, None
            self.watch_runs.notice = f"reading stopped: {type(error).__name__}: {error}"
        self._quiet.rest()
        now = (self.watch_runs.version, int(self._clock()), self._covered)
        if now != self._seen:
            self._seen = now
            # Textual removes widgets and screens before it stops this timer: then there is nothing to draw on.
            with contextlib.suppress(NoMatches, IndexError):
                self.draw()

    def draw(self) -> None:
        """Draw the current model."""
        super().draw()
        model = self.model
        if has_divergences(model) != self._diverges:
            self._diverges = not self._diverges
            self._arrange()
        for name, cell in self._cells.items() if not self._covered else ():
            self._panel(name).show(model, cell)
        self._alert()

    @property
    def _covered(self) -> bool:
        """Whether nothing of the main screen is seen."""
        return any(not screen.is_modal for screen in self.screen_stack[1:])

    def _panel(self, name: str) -> TextPanel:
        return self.screen_stack[0].query_one(f"#{name}", TextPanel)

    def _arrange(self, size: Size | None = None) -> None:
        """Place the panels by the size of the screen; a zoomed panel gets all the room below the banner."""
        width, height = size if size is not None else self.size
        main = self.screen_stack[0]
        small = mode_of(width, height) == "line"
        try:
            main.query_one(Footer).display = not small
        except NoMatches:
            return
        cells = layout(width, height, divergences=self._diverges)
        if self._zoomed and not small:
            cells = [cells[0], Cell(self._zoomed, 0, 4, width, max(height - 5, 1), zoomed=True)]
        self._cells = {cell.name: cell for cell in cells}
        for panel in main.query(TextPanel):
            cell = self._cells.get(panel.panel)
            panel.display = cell is not None
            if cell is not None:
                panel.place(cell)
        self.call_after_refresh(self.draw)

    def _alert(self) -> None:
        """Tell of the worst that any run has come to since the last look."""
        worse = [item for item in self.alerts.see(self.watch_runs.rows(filtered=False), time.time_ns()) if item.worse]
        if worse and self._bell:
            self.bell()
        told = self._toasts.text(worse) if mode_of(*self.size) == "wide" else None
        if told is not None:
            self.clear_notifications()
            self.notify(told[0], severity=told[1], markup=False)

    # --- keys: view ---------------------------------------------------------------------------

    def action_detach(self) -> None:
        """Leave the viewer; the training continues."""
        self.exit()

    def action_freeze(self) -> None:
        """Freeze or thaw the view."""
        if self.watch_runs.frozen:
            self.watch_runs.thaw()
        else:
            self.watch_runs.freeze()
        self.draw()

    def action_step(self, offset: int) -> None:
        """Freeze, and step through updates."""
        self.watch_runs.step(offset)
        self.draw()

    def action_ends(self, first: bool) -> None:
        """Freeze at the run's first or last update."""
        self.watch_runs.step_to(first=first)
        self.draw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of the main screen act on the main screen alone: other screens own theirs."""
        del parameters
        return len(self.screen_stack) == 1 or action not in _OWN_ACTIONS

    def action_retreat(self) -> None:
        """Zoom out, then thaw."""
        if self._zoomed:
            self.action_zoom()
        elif self.watch_runs.frozen:
            self.action_freeze()

    def action_zoom(self, name: str = "") -> None:
        """Zoom the panel, or end the zoom."""
        if self._zoomed and name in {"", self._zoomed}:
            self._zoomed = ""
        else:
            self._zoomed = name or self._focused_name()
        self._arrange()

    def action_head_view(self) -> None:
        """Show the heads' KL, or their entropy and clip fraction."""
        self.watch_runs.head_view = "entropy" if self.watch_runs.head_view == "kl" else "kl"
        self.draw()

    def action_level(self) -> None:
        """Show all events, or the notable ones."""
        self.watch_runs.event_filter = "notable" if self.watch_runs.event_filter == "all" else "all"
        self.draw()

    def action_events(self) -> None:
        """Give the event log the screen and the keys, or go back."""
        self.action_zoom("events")
        if self._zoomed:
            self._panel("events").focus()

    # --- keys: runs ---------------------------------------------------------------------------

    def on_click(self, event: Click) -> None:
        """Show the run that was clicked on in the list of the main screen."""
        cell = self._cells.get("runs")
        if cell is None or len(self.screen_stack) > 1 or not cell.x <= event.screen_x < cell.x + cell.width:
            return
        found = run_at(self.model, cell.height, event.screen_y - cell.y)
        if found is not None:
            self.watch_runs.select(found)
            self.draw()

    def action_neighbour(self, offset: int) -> None:
        """Show the next run of the list."""
        self.watch_runs.neighbour(offset)
        self.draw()

    def action_mark(self) -> None:
        """Mark the selected run."""
        self.watch_runs.mark(self.watch_runs.selected)
        self.draw()

    # --- appearance ---------------------------------------------------------------------------

    def action_next_theme(self) -> None:
        """Select the next theme: Sanctum's own first, then Textual's."""
        names = [item.name for item in THEMES] + sorted(set(self.available_themes) - {item.name for item in THEMES})
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        self.notify(f"theme {self.theme}", timeout=2)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The commands of the palette: every key by its description, and the choice of a theme.

        Textual's other commands are here by Sanctum's own names, or (Maximize) tear its panels from their places.
        """
        for key in KEYS:
            if not key.action.startswith(("app.", "command_palette", "retreat")):
                action = key.action
                yield SystemCommand(
                    f"Sanctum: {key.text}", f"key {shown(key)}", lambda action=action: self.run_action(action)
                )
        yield from (item for item in super().get_system_commands(screen) if item.title == "Theme")

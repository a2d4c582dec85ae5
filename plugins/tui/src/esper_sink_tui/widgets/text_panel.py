"""TextPanel: draws the lines of one panel and repaints only those that changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from esper_core.terminal import one_line
from esper_sink_tui.layout import Cell, cell_lines
from esper_sink_tui.lines import ascii_line, frame, line, plain_text
from esper_sink_tui.theme import ROLE_CLASSES, ROLE_CSS, role_class

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.style import Style

    from esper_core.reading.glyphs import Role
    from esper_core.reading.model import ScreenModel
    from esper_sink_tui.lines import Line

__all__ = ["TextPanel"]


class TextPanel(Widget):
    """A place for lines of text.

    Args:
        ascii_only: draw with ASCII signs.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = set(ROLE_CLASSES)
    DEFAULT_CSS = f"""
    TextPanel {{ position: absolute; width: 1fr; height: 1; }}
    TextPanel:focus {{ background: $surface; }}
    {ROLE_CSS}
    """
    panel: ClassVar[str] = ""
    """Name of the panel in :mod:`esper_sink_tui.layout`."""

    def __init__(self, *, ascii_only: bool = False) -> None:
        super().__init__(id=self.panel or None)
        self._lines: Sequence[Line] = ()
        self._ascii = ascii_only
        self._styles: dict[Role, Style] = {}

    def place(self, cell: Cell) -> None:
        """Set the widget's position and size."""
        self.styles.offset = (cell.x, cell.y)
        self.styles.width = cell.width
        self.styles.height = cell.height

    def show(self, model: ScreenModel, cell: Cell) -> bool:
        """Draw the model; True when anything changed. A panel that cannot be drawn says so, and the others stand."""
        try:
            lines = self.lines(model, cell)
        except Exception as error:  # noqa: BLE001  # numbers from elsewhere; an error here would end the whole viewer
            what = line((f"cannot be drawn: {type(error).__name__}: {one_line(str(error))}", "warn"))
            lines = frame(cell.name.upper(), "", [what], cell.width, cell.height)
        return self.show_lines(lines)

    def lines(self, model: ScreenModel, cell: Cell) -> Sequence[Line]:
        """The text of the panel at its place."""
        return cell_lines(model, cell)

    def show_lines(self, lines: Sequence[Line]) -> bool:
        """Draw lines; only those that differ are repainted."""
        if self._ascii:
            lines = [ascii_line(item) for item in lines]
        before = self._lines
        self._lines = lines
        if len(lines) != len(before):
            self.refresh()
            return True
        width = self.size.width
        changed = [Region(0, y, width, 1) for y, item in enumerate(lines) if item != before[y]]
        if changed:
            self.refresh(*changed)
        return bool(changed)

    def text(self) -> str:
        """The panel's text, as drawn on the screen."""
        return "\n".join(plain_text(item).rstrip() for item in self._lines)

    def render_line(self, y: int) -> Strip:
        """One line as a Textual strip."""
        if y >= len(self._lines):
            return Strip.blank(self.size.width, self.rich_style)
        segments = [Segment(text, self._style(role)) for text, role in self._lines[y]]
        return Strip(segments).adjust_cell_length(self.size.width, self.rich_style)

    def _style(self, role: Role) -> Style:
        style = self._styles.get(role)
        if style is None:
            style = self.get_component_rich_style(role_class(role)) if role else self.rich_style
            self._styles[role] = style
        return style

    def notify_style_update(self) -> None:
        """Repaint: the theme or the focus changed."""
        self._styles.clear()
        super().notify_style_update()

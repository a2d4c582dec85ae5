"""The screen with the list of runs: search, sort, show, mark, compare."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual import on
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Input, Static

from esper_core.errors import EsperError
from esper_core.reading.glyphs import to_ascii
from esper_core.reading.listing import SORTS
from esper_core.terminal import one_line
from esper_sink_tui.names import shown_names
from esper_sink_tui.panels.runs import COLUMNS, NUMBERS, WIDEST_NAME, columns_for, run_cells
from esper_sink_tui.theme import MONO, rich_colour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType
    from textual.events import Click

    from esper_core.reading.listing import Sort
    from esper_core.reading.model import RunRow
    from esper_sink_tui.lines import Span
    from esper_sink_tui.watch import Watch

__all__ = ["RunsScreen"]

_LOOK_S: Final = 1.0
_SORTED_BY: Final[dict[str, Sort]] = {"age": "time", "started": "time", "return": "return", "verdict": "verdict"}
"""Column -> the order that a click on its head gives."""


class _Table(DataTable[Text]):
    """One click selects a row: Textual's table alone wants two, on the same cell."""

    def on_click(self, event: Click) -> None:
        """Select the row."""
        place = event.style.meta.get("row", -1)
        if 0 <= place < self.row_count:
            self.move_cursor(row=place)
            self.action_select_cursor()


class RunsScreen(ModalScreen[str]):
    """Every run of the folder. Enter or a click shows the run, ``space`` marks it, ``v`` compares the marked ones.

    Dismisses with ``compare`` after ``v``, with ``differences`` after ``w``, else with an empty string.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q", "close", "close"),
        ("slash", "filter", "search"),
        ("s", "sort", "sort"),
        ("space", "mark", "mark"),
        ("v", "compare", "compare"),
        ("w", "differences", "what differs"),
    ]
    DEFAULT_CSS = """
    RunsScreen { align: center middle; }
    RunsScreen > Vertical {
        width: 98%; max-width: 150; min-width: 16; height: 92%;
        border: round $role-cursor; padding: 0 1; background: $surface;
    }
    RunsScreen Input { height: 3; }
    RunsScreen DataTable { height: 1fr; }
    RunsScreen Static { height: 1; color: $role-dim; }
    """

    def __init__(self, watch: Watch, *, ascii_only: bool = False) -> None:
        super().__init__()
        self._watch = watch
        self._ascii = ascii_only
        self._shown: dict[str, tuple[Text, ...]] = {}
        self._columns: tuple[str, ...] = ()

    def compose(self) -> ComposeResult:
        """Search, table and a line of help."""
        with Vertical():
            yield Input(self._watch.run_filter, placeholder="search by name, id, state, verdict or experiment")
            yield _Table(cursor_type="row", zebra_stripes=False)
            yield Static(
                "enter show  space mark  v compare marked  w what differs  s sort  / search  escape close", markup=False
            )

    def on_mount(self) -> None:
        """Fill the table, and keep it up to date."""
        table = self.query_one(DataTable)
        self.fill()
        if self._watch.selected in self._shown:
            table.move_cursor(row=list(self._shown).index(self._watch.selected))
        table.focus()
        self.set_interval(_LOOK_S, self.fill)
        # The table has its width after the first layout.
        self.call_after_refresh(self.fill)

    def on_resize(self) -> None:
        """Show the columns that have room now."""
        self.call_after_refresh(self.fill)

    def fill(self) -> None:
        """Write what has changed; the cursor stays on its run."""
        rows = self._watch.rows()
        columns, cells = self._cells(rows)
        table = self.query_one(DataTable)
        if columns == self._columns and list(cells) == list(self._shown):
            for key, found in cells.items():
                for name, old, new in zip(columns, self._shown[key], found, strict=True):
                    if old != new:
                        table.update_cell(key, name, new, update_width=True)
        else:
            here, keep = self._current(), table.cursor_row
            table.clear(columns=True)
            for name in columns:
                table.add_column(Text(name, justify="right" if name in NUMBERS else "left"), key=name)
            for key, found in cells.items():
                table.add_row(*found, key=key)
            if cells:
                table.move_cursor(row=list(cells).index(here) if here in cells else min(keep, len(cells) - 1))
        self._columns, self._shown = columns, cells
        order = {"time": "newest first", "return": "highest return first", "verdict": "worst verdict first"}
        self.query_one(
            Vertical
        ).border_title = f"{len(cells)} {'run' if len(cells) == 1 else 'runs'}, {order[self._watch.run_sort]}"

    def _cells(self, rows: Sequence[RunRow]) -> tuple[tuple[str, ...], dict[str, tuple[Text, ...]]]:
        """The columns that have room, and the cells of each run in them."""
        now = time.time_ns()
        whole = {
            row.run_id: run_cells(row, now, name=one_line(row.label), here=row.run_id == self._watch.selected)
            for row in rows
        }
        width = self.query_one(DataTable).scrollable_content_region.width
        columns, room = columns_for(whole.values(), width) if width else (COLUMNS, WIDEST_NAME)
        names = shown_names(rows, room)
        found = {}
        for run_id, cells in whole.items():
            spans = dict(zip(COLUMNS, cells, strict=True))
            spans["run"] = (names[run_id], spans["run"][1])
            found[run_id] = tuple(self._text(name, spans[name]) for name in columns)
        return columns, found

    def _text(self, column: str, span: Span) -> Text:
        text, role = span
        colour = rich_colour(self.app.theme_variables[f"role-{role}"]) if role and self.app.theme != MONO.name else ""
        drawn = to_ascii(text) if self._ascii else text
        return Text(drawn, style=colour, justify="right" if column in NUMBERS else "left")

    @on(Input.Changed)
    def _filtered(self, event: Input.Changed) -> None:
        self._watch.run_filter = event.value.strip()
        self._watch.version += 1
        self.fill()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        """Go to the first run that was found; one that the list does not have is looked up by its path."""
        wanted = event.value.strip()
        table = self.query_one(DataTable)
        found = [place for place, key in enumerate(self._shown) if key != self._watch.selected]
        if wanted and not found:
            try:
                self._watch.open(wanted)
            except EsperError as error:
                self.notify(error.message, severity="warning", markup=False)
            else:
                self._watch.run_filter = ""
                self.dismiss("")
                return
        elif wanted:
            table.move_cursor(row=found[0])
        table.focus()

    @on(DataTable.RowSelected)
    def _selected(self, event: DataTable.RowSelected) -> None:
        self._choose(event.row_key.value)

    @on(DataTable.HeaderSelected)
    def _sorted_by(self, event: DataTable.HeaderSelected) -> None:
        order = _SORTED_BY.get(event.column_key.value or "")
        if order is not None:
            self._sort(order)

    def _choose(self, run_id: str | None) -> None:
        if run_id is not None and self.is_active:
            self._watch.select(run_id)
            self.dismiss("")

    def _current(self) -> str | None:
        """The run under the cursor."""
        place = self.query_one(DataTable).cursor_row
        return list(self._shown)[place] if 0 <= place < len(self._shown) else None

    def _sort(self, order: Sort) -> None:
        self._watch.run_sort = order
        self._watch.version += 1
        self.fill()

    def action_sort(self) -> None:
        """Sort by the next of time, return and verdict."""
        self._sort(SORTS[(SORTS.index(self._watch.run_sort) + 1) % len(SORTS)])

    def action_filter(self) -> None:
        """Move the focus to the search."""
        self.query_one(Input).focus()

    def action_mark(self) -> None:
        """Mark the run under the cursor."""
        current = self._current()
        if current is not None:
            self._watch.mark(current)
            self.fill()

    def action_compare(self) -> None:
        """Close and compare."""
        self.dismiss("compare")

    def action_differences(self) -> None:
        """Close and show what differs in configuration."""
        self.dismiss("differences")

    def action_close(self) -> None:
        """Close."""
        self.dismiss("")

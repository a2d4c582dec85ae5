"""The screen with the list of runs: filter, show, mark for comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Input, Static

from esper_core.errors import EsperError
from esper_core.reading.glyphs import to_ascii
from esper_sink_tui.panels.runs import run_cells

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from esper_sink_tui.watch import Watch

__all__ = ["RunsScreen"]

_COLUMNS = (" ", "run", "state", "verdict", "updates", "KL", "return", "steps/s", "experiment")


class RunsScreen(ModalScreen[str]):
    """Type to filter; enter shows the run, ``space`` marks it, ``v`` compares the marked ones.

    Dismisses with ``compare`` after ``v``, else with an empty string.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "close", "close"),
        ("slash", "filter", "filter"),
        ("space", "mark", "mark"),
        ("v", "compare", "compare"),
    ]
    DEFAULT_CSS = """
    RunsScreen { align: center middle; }
    RunsScreen > Vertical {
        width: 110; max-width: 98%; height: 24; max-height: 92%;
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

    def compose(self) -> ComposeResult:
        """Filter, table and a line of help."""
        with Vertical() as box:
            box.border_title = "Runs"
            yield Input(self._watch.run_filter, placeholder="filter by name, state, verdict or experiment")
            yield DataTable(cursor_type="row", zebra_stripes=False)
            yield Static("enter show   space mark   v compare marked   / filter   escape close", markup=False)

    def on_mount(self) -> None:
        """Fill the table."""
        table = self.query_one(DataTable)
        for name in _COLUMNS:
            table.add_column(name, key=name)
        self._fill()
        table.focus()

    def _fill(self) -> None:
        table = self.query_one(DataTable)
        keep = table.cursor_row
        table.clear()
        for row in self._watch.rows():
            cells = run_cells(row)
            table.add_row(*(to_ascii(cell) if self._ascii else cell for cell in cells), key=row.run_id)
        if table.row_count:
            table.move_cursor(row=min(keep, table.row_count - 1))

    @on(Input.Changed)
    def _filtered(self, event: Input.Changed) -> None:
        self._watch.run_filter = event.value.strip()
        self._watch.version += 1
        self._fill()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        """Show the run of that name; a run that is not followed yet is looked up in the folder."""
        if event.value.strip() and self.query_one(DataTable).row_count <= 1:
            try:
                self._watch.open(event.value.strip())
            except EsperError as error:
                self.notify(error.message, severity="warning", markup=False)
            else:
                self._watch.run_filter = ""
                self.dismiss("")
                return
        self.query_one(DataTable).focus()

    @on(DataTable.RowSelected)
    def _selected(self, event: DataTable.RowSelected) -> None:
        if event.row_key.value is not None:
            self._watch.select(event.row_key.value)
        self.dismiss("")

    def _current(self) -> str | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    def action_filter(self) -> None:
        """Move the focus to the filter."""
        self.query_one(Input).focus()

    def action_mark(self) -> None:
        """Mark the run under the cursor."""
        current = self._current()
        if current is not None:
            self._watch.mark(current)
            self._fill()

    def action_compare(self) -> None:
        """Close and compare."""
        self.dismiss("compare")

    def action_close(self) -> None:
        """Close."""
        self.dismiss("")

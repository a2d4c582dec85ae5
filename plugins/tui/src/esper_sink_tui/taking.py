"""What is taken out of the viewer: a panel as text, a series as CSV, the screen as SVG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from esper_core.terminal import one_line
from esper_sink_tui.layout import Cell, cell_lines
from esper_sink_tui.lines import plain_text
from esper_sink_tui.shell import Shell

if TYPE_CHECKING:
    from esper_sink_tui.watch import Watch

__all__ = ["Taking"]


class Taking(Shell):
    """Copy and export.

    Args:
        watch: the runs.
        ascii_only: draw with ASCII signs and without the plot widget.
        export_dir: the folder for exports; the current one when None.
    """

    def __init__(self, watch: Watch, *, ascii_only: bool = False, export_dir: Path | None = None) -> None:
        super().__init__(watch, ascii_only=ascii_only)
        self._export_dir = export_dir if export_dir is not None else Path.cwd()

    def action_copy(self) -> None:
        """Copy the panel in focus as text to the clipboard (OSC 52, through SSH and tmux where they allow it)."""
        name = self._focused_name()
        cell = self._cells.get(name, Cell(name, 0, 0, 100, 20))
        text = "\n".join(plain_text(item).rstrip() for item in cell_lines(self.model, cell))
        self.copy_to_clipboard(text)
        self.notify(f"copied {name}, {len(text.splitlines())} lines", timeout=3)

    def action_export(self) -> None:
        """Ask what to export, then write it."""
        from esper_sink_tui.screens.export import ExportScreen  # noqa: PLC0415  # screens load when opened

        def chosen(what: str | None) -> None:
            if what:
                self.call_after_refresh(self.export, what)

        self.push_screen(ExportScreen(str(self._export_dir)), chosen)

    def export(self, what: str) -> None:
        """Write ``svg``, ``all`` or one metric's CSV to the export folder, named after the run."""
        run_id = one_line(self.watch_runs.selected or "none").replace("/", "-")
        suffix = "svg" if what == "svg" else "csv"
        path = self._export_dir / f"sanctum-{run_id}-{'screen' if what == 'svg' else what}.{suffix}"
        if what == "svg":
            self._write(path, self.export_screenshot(title="Sanctum"))
        else:
            self.run_worker(lambda: self._export_csv(path, what), thread=True)

    def _export_csv(self, path: Path, what: str) -> None:
        from esper_core.reading.cells import blocks_of  # noqa: PLC0415  # only exports need it
        from esper_core.reading.table import heading  # noqa: PLC0415  # as above
        from esper_core.reading.written import write_csv  # noqa: PLC0415  # as above

        watched = self.watch_runs.watched()
        if watched is None:
            return
        updates = list(watched.updates())
        columns = heading(event.payload for event in updates) if what == "all" else ["update_id", "env_steps", what]
        out = io.StringIO()
        write_csv(blocks_of(updates), columns, out)
        self.call_from_thread(self._write, path, out.getvalue())

    def _write(self, path: Path, text: str) -> None:
        done = "replaced" if path.exists() else "wrote"
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            self.notify(f"cannot write {path}: {error.strerror}", severity="error", markup=False)
        else:
            self.notify(f"{done} {path}", markup=False)
